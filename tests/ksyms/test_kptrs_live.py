"""Special fields predicted, and what the kernel that runs here makes of them."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
from functools import cache
from pathlib import Path
from random import Random

import pytest

from ksyms.bpf.btf_load import LoadedBtf, Record
from ksyms.bpf.kernel_rules import FIELD_KINDS, POINTER_KINDS, KernelRules
from ksyms.bpf.kptrs import MapFields
from ksyms.bpf.map_create import map_create
from ksyms.bpf.map_types import WITHOUT_BTF, MapType
from ksyms.bpf.maps import BpfMap
from ksyms.bpf.object import BpfObject
from ksyms.bpf.refusal import RefusedError
from ksyms.bpf.targets import KernelTypes
from ksyms.btf_types import Kind
from ksyms.destructor_probe import DestructorProbe
from ksyms.errors import BtfError
from ksyms.kernel import Kernel
from ksyms.kptr_check import KptrChecker, rules_of
from tests.ksyms import bpf_cases, live_bpf
from tests.ksyms.btf_layouts import Layouts
from tests.ksyms.btf_writer import BtfWriter
from tests.ksyms.clang import build
from tests.ksyms.record_layouts import COUNT, layout
from tests.oracle import bpf

pytestmark = pytest.mark.bpf

T, C = "struct task_struct", "struct cgroup"
HEAD = """#include "mini.h"
char LICENSE[] SEC("license") = "GPL";
struct task_struct { int x; };
struct cgroup { int x; };
struct sock { int x; };
struct keep { struct task_struct t; struct cgroup c; struct sock s; };
int keep(struct keep *x) { return 0; }
#define MAP(name, kind, flags, value_type) struct { \\
  __uint(type, BPF_MAP_TYPE_##kind); __uint(max_entries, 1); \\
  __uint(map_flags, flags); __type(key, int); __type(value, value_type); \\
} name SEC(".maps");
#define contains(type, node) __attribute__((btf_decl_tag("contains:" #type ":" #node)))
"""

# Shapes that the recorded cases do not have.
EXTRA = {
    "bss": "struct task_struct __kptr *a; struct sock __kptr_untrusted *b[3];",
    "bss_struct": "struct v { int x; struct cgroup __kptr *c; }; struct v g[2];",
    "data_section": 'struct task_struct __kptr *a SEC(".data.mine"); '
    'int before SEC(".data.mine") = 1;',
    "rodata": "struct v { struct task_struct __kptr *p; int x; }; const struct v g;"
    "int use(void) { return *(volatile int *)&g.x; }",
    "static_bss": "static struct task_struct __kptr *a; static int b;"
    "int use(void) { return !*(void *volatile *)&a + *(volatile int *)&b; }",
    "global_list": "struct node { struct bpf_list_node n; int x; };"
    'struct bpf_spin_lock lock SEC(".data.A");'
    'contains(node, n) struct bpf_list_head head SEC(".data.A");'
    "struct node *keep_node(struct node *x) { return x; }",
    "list_in_value": "struct node { struct bpf_list_node n; int x; };"
    "struct v { struct bpf_spin_lock l; struct bpf_list_head h contains(node, n);"
    "struct task_struct __kptr *p; }; MAP(m, ARRAY, 0, struct v)"
    "struct node *keep_node(struct node *x) { return x; }",
    "tree_without_lock": "struct node { struct bpf_rb_node n; int x; };"
    "struct v { struct bpf_rb_root r contains(node, n); };"
    "MAP(m, ARRAY, 0, struct v)"
    "struct node *keep_node(struct node *x) { return x; }",
    "anonymous_members": "struct v { struct { int a; struct task_struct __kptr *p; };"
    "union { long u; struct sock __kptr_untrusted *q; };"
    "struct { struct cgroup __kptr *r[2]; } s[2]; }; MAP(m, HASH, 0, struct v)",
    "volatile_pointer": "struct v { struct task_struct __kptr *volatile p;"
    "struct cgroup __kptr *const q; volatile int x; }; MAP(m, ARRAY, 0, struct v)",
    "bitfields": "struct v { int a:8; int b:24; struct task_struct __kptr *p; };"
    "struct w { int a:7; int b:25; struct task_struct __kptr *p; };"
    "MAP(m, ARRAY, 0, struct v) MAP(n, ARRAY, 0, struct w)",
    "packed_nested": "struct i { struct task_struct __kptr *p; };"
    "struct v { char c; struct i i; } __attribute__((packed));"
    "MAP(m, ARRAY, 0, struct v)",
    "map_of_maps": "struct v { struct task_struct __kptr *p; };"
    "int keep_value(struct v *x) { return 0; }"
    "struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);"
    "__type(key, int); __type(value, struct v); };"
    "struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 1);"
    '__type(key, int); __array(values, struct inner); } m SEC(".maps");',
    "all_the_types": "struct v { struct task_struct __kptr *p; };"
    + "".join(
        f"MAP(m_{kind}, {kind}, 0, struct v)"
        for kind in ("HASH", "ARRAY", "PERCPU_HASH", "PERCPU_ARRAY", "LRU_HASH")
    ),
    "key_is_enum": "enum e { A }; struct v { struct task_struct __kptr *p; };"
    "struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);"
    '__type(key, enum e); __type(value, struct v); } m SEC(".maps");',
    "key_alone": "struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1);"
    '__type(key, int); __uint(value_size, 8); } m SEC(".maps");',
    "timer_in_per_cpu": "struct v { struct bpf_timer t; };"
    "MAP(m, PERCPU_ARRAY, 0, struct v) MAP(n, ARRAY, 0, struct v)",
    "two_bad_structs": "struct v { struct sock __kptr *p; };"
    'struct w { struct task_struct __kptr *q; struct sock __tag("foo") *r; };'
    "MAP(m, ARRAY, 0, struct w) MAP(n, ARRAY, 0, struct v)",
    "typedef_of_value": "typedef struct { struct task_struct __kptr *p; } v_t;"
    "MAP(m, ARRAY, 0, v_t)",
    "refcounted": "struct v { struct bpf_refcount c; struct bpf_refcount d;"
    "struct task_struct __kptr *p; }; MAP(m, ARRAY, 0, struct v)",
}


@cache
def kernel() -> Kernel:
    return Kernel.running()


@cache
def checker() -> KptrChecker:
    return KptrChecker(kernel())


@cache
def types_and_rules() -> tuple[KernelTypes, KernelRules]:
    probe = DestructorProbe()
    name = "k01_ref_task.o"
    obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
    types = KernelTypes(kernel(), lambda name, btf: probe.accepts(name))
    return types, rules_of(kernel(), obj)


# Maps that bpf_map_lookup_elem() looks into, by a key of 4 bytes here.
LOOKED_UP = {
    *(MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH),
    *(MapType.ARRAY, MapType.PERCPU_ARRAY),
}


def compare(obj: BpfObject) -> None:
    """Hold the prediction for each map to what the kernel does."""
    kptrs = checker().check(obj)
    assert obj.loader_btf is not None
    refused = kptrs.btf_load.errno if kptrs.btf_load else 0
    assert live_bpf.btf_load(obj.loader_btf) == refused, kptrs.btf_load
    if refused:
        return
    with live_bpf.loaded(obj.loader_btf) as btf:
        for found in kptrs.all_maps:
            if found.inner is None:
                compare_map(found, btf)


def compare_map(found: MapFields, btf: int) -> None:
    if found.map.type in WITHOUT_BTF and not found.fields:
        return
    refused = found.map_create.errno if found.map_create else 0
    assert live_bpf.map_create(found.map, btf) == refused, found.map_create
    if not refused and found.map.type in LOOKED_UP and found.map.value_size < 512:
        with live_bpf.created(found.map, btf) as descriptor:
            seen = live_bpf.fields(descriptor, found.map.value_size)
        record = Record(tuple((f, f.target) for f in found.fields))  # type: ignore[misc]
        assert said_of_pointers(seen) == predicted(record)


# Of a pointer the name of its target; nothing of memory that user space shares.
def said_of_pointers(seen: dict[int, str]) -> dict[int, str]:
    return {
        offset: text.partition("_or_null_")[2] if text.startswith("ptr ") else text
        for offset, text in seen.items()
    }


def predicted(record: Record) -> dict[int, str]:
    found = {}
    for field, target in record.fields:
        if field.kind in POINTER_KINDS:
            named = target.name if target and field.kind != "uptr" else ""
            found[field.offset] = named
        else:
            first = -(-field.offset // 4) * 4
            end = field.offset + FIELD_KINDS[field.kind].size
            found |= dict.fromkeys(range(first, end, 4), field.kind)
    return found


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(bpf_cases.archive())
        if path.endswith(".o") and path.startswith(("objects/", "extra/"))
    ],
)
def test_the_kernel_does_with_each_recorded_object_what_is_predicted(path: str) -> None:
    compare(BpfObject.from_bytes(bpf_cases.archive()[path], name=path))


@pytest.mark.parametrize("name", EXTRA)
def test_the_kernel_does_with_what_was_just_built_what_is_predicted(
    name: str, tmp_path: Path
) -> None:
    compare(BpfObject.load(build(tmp_path, name, HEAD + EXTRA[name])))


@pytest.mark.parametrize(
    "name",
    ["s01_typeless_func", "s12_func_ok", "s27_kconfig_and_ksym", "s29_many"],
)
def test_libbpf_hands_the_kernel_this_btf_byte_for_byte(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.o"
    path.write_bytes(bpf_cases.object_bytes(path.name))
    pinned = Path("/sys/fs/bpf", f"ksyms-test-{os.getpid()}")
    loading = ["prog", "loadall", str(path), str(pinned)]
    if subprocess.run(["/usr/sbin/bpftool", *loading], capture_output=True).returncode:
        pytest.skip("this kernel does not load the object")
    try:
        (program,) = pinned.iterdir()
        asking = ["-j", "prog", "show", "pinned", str(program)]
        told = subprocess.run(
            ["/usr/sbin/bpftool", *asking], check=True, capture_output=True
        )
        theirs = raw_btf(json.loads(told.stdout)["btf_id"])
    finally:
        for file in pinned.iterdir():
            file.unlink()
        pinned.rmdir()

    assert BpfObject.load(path).loader_btf == theirs


# BPF_BTF_GET_FD_BY_ID, then twice BPF_OBJ_GET_INFO_BY_FD: for the size and the bytes.
def raw_btf(btf_id: int) -> bytes:
    fd, _ = bpf(19, struct.pack("<I", btf_id))
    try:
        info = ctypes.create_string_buffer(64)
        ask = struct.pack("<IIQ", fd, 64, ctypes.addressof(info))
        bpf(15, ask)
        (size,) = struct.unpack_from("<I", info, 8)
        data = ctypes.create_string_buffer(size)
        struct.pack_into("<QI", info, 0, ctypes.addressof(data), size)
        bpf(15, ask)
    finally:
        os.close(fd)
    return data.raw


def test_the_probe_tells_what_the_kernel_says_to_a_referenced_kptr() -> None:
    probe = DestructorProbe()

    for name in ("task_struct", "cgroup", "sock", "inode", "nobody_has_this"):
        writer = BtfWriter()
        target = writer.composite(name, 0)
        tag = writer.add(Kind.TYPE_TAG, "kptr", value=target)
        pointer = writer.pointer(tag)
        writer.composite("value", 8, ("member", pointer, 0))
        assert probe.accepts(name) == (live_bpf.btf_load(writer.to_bytes()) == 0)
    assert probe.accepts("task_struct")
    assert not probe.accepts("inode")


# Seeds beyond the recorded ones; seconds here, half an hour when it was written.
@pytest.mark.parametrize("part", range(4))
def test_random_layouts_get_the_verdict_that_is_predicted(part: int) -> None:
    types, rules = types_and_rules()

    for seed in range(COUNT + part, 2 * COUNT, 4):
        data = layout(seed)
        try:
            LoadedBtf(data, rules).check(types)
            expected = 0
        except RefusedError as error:
            expected = error.refusal.errno
        except BtfError:
            assert live_bpf.btf_load(data) != 0, seed
            continue
        assert live_bpf.btf_load(data) == expected, seed


@pytest.mark.parametrize("part", range(2))
def test_random_maps_of_random_layouts_are_created_as_predicted(part: int) -> None:
    types, rules = types_and_rules()

    for seed in range(part, 400, 2):
        layouts = Layouts(seed)
        try:
            loaded = LoadedBtf(layouts.to_bytes(), rules)
            loaded.check(types)
        except (RefusedError, BtfError):
            continue
        with live_bpf.loaded(layouts.to_bytes()) as btf:
            for map in random_maps(seed, layouts, loaded):
                verdict = map_create(map, loaded, types, rules)
                if map.type in WITHOUT_BTF and not verdict.record.fields:
                    continue
                expected = verdict.refusal.errno if verdict.refusal else 0
                assert live_bpf.map_create(map, btf) == expected, (seed, map)
                if map.type == MapType.ARRAY and not expected and seed % 8 == 0:
                    with live_bpf.created(map, btf) as descriptor:
                        seen = live_bpf.fields(descriptor, map.value_size)
                    assert said_of_pointers(seen) == predicted(verdict.record), seed


TYPES = [
    *[MapType.HASH, MapType.ARRAY, MapType.PERCPU_HASH, MapType.PERCPU_ARRAY] * 3,
    *(MapType.LRU_HASH, MapType.LRU_PERCPU_HASH, MapType.LPM_TRIE),
    *(MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE, MapType.BLOOM_FILTER),
    *(MapType.SK_STORAGE, MapType.INODE_STORAGE, MapType.TASK_STORAGE),
    *(MapType.CGRP_STORAGE, MapType.QUEUE, MapType.STACK, MapType.STACK_TRACE),
    *(MapType.REUSEPORT_SOCKARRAY, MapType.SOCKMAP, MapType.SOCKHASH),
    *(MapType.CPUMAP, MapType.DEVMAP, MapType.DEVMAP_HASH),
]


def random_maps(seed: int, layouts: Layouts, loaded: LoadedBtf) -> list[BpfMap]:
    random = Random(seed)
    sections = loaded.btf.ids(Kind.DATASEC)
    maps = []
    for _ in range(8):
        type = random.choice(TYPES)
        storage = "STORAGE" in type.name
        key_id = random.choice([layouts.int] * 4 + [0, *layouts.ints, *layouts.values])
        value_id = random.choice(layouts.values * 4 + layouts.pointers + sections + [0])
        key, value = loaded.graph.sized(key_id), loaded.graph.sized(value_id)
        flags = int(storage or type is MapType.LPM_TRIE)
        while random.random() < 0.15:
            flags ^= 1 << random.randrange(13)
        map = BpfMap(
            "m",
            ".maps",
            type,
            key[1] if key else random.choice([0, 4]),
            value[1] if value else 8,
            int(not storage),
            flags,
            key_id,
            value_id,
        )
        if random.random() < 0.1:
            map = map._replace(key_size=random.choice([0, 4, 8, 16]))
        if random.random() < 0.05:
            map = map._replace(value_size=random.choice([0, 4, 8, map.value_size + 1]))
        if map.value_size < 1 << 16:
            maps.append(map)
    return maps
