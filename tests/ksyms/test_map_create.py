"""What BPF_MAP_CREATE says to a map with fields, by its type, flags and sizes."""

from __future__ import annotations

from functools import cache

import pytest

from ksyms.bpf.btf_load import LoadedBtf
from ksyms.bpf.kernel_rules import RULES_6_18, RULES_7, KernelRules
from ksyms.bpf.map_create import MapVerdict, map_create
from ksyms.bpf.map_types import MapFlag, MapType, type_name
from ksyms.bpf.maps import BpfMap
from ksyms.bpf.targets import KernelTypes
from ksyms.btf_types import Kind
from tests.ksyms.btf_layouts import FIELD_SIZES
from tests.ksyms.btf_writer import BtfWriter
from tests.ksyms.kernels import recorded_kernel

STORAGE = {t for t in MapType if t.name.endswith("STORAGE")}
KPTR_TYPES = {
    *(MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH),
    *(MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.SK_STORAGE, MapType.INODE_STORAGE),
    *(MapType.TASK_STORAGE, MapType.CGRP_STORAGE),
}


@cache
def world(rules: KernelRules) -> tuple[LoadedBtf, dict[str, int], KernelTypes]:
    """A BTF with a value for each kind of field, and ids of keys."""
    writer = BtfWriter()
    number, long = writer.integer(), writer.integer("long", 8)
    ids = {"int": number, "long": long, "plain": writer.composite("plain", 8)}
    ids["prefix"] = writer.composite("prefix", 8, ("len", number, 0), ("d", number, 32))
    ids["cgroup"] = writer.composite("key", 16, ("i", long, 0), ("t", number, 64))
    task = writer.composite("task_struct", 4)
    small = writer.composite("small", 4096)
    large = writer.composite("large", 4097)
    empty = writer.composite("empty", 0)
    for name, tag, target in (
        ("kptr", "kptr", task),
        ("kptr_untrusted", "kptr_untrusted", task),
        ("percpu_kptr", "percpu_kptr", small),
        ("uptr", "uptr", small),
        ("uptr_large", "uptr", large),
        ("uptr_empty", "uptr", empty),
        ("uptr_kernel", "uptr", task),
    ):
        pointer = writer.pointer(writer.add(Kind.TYPE_TAG, tag, value=target))
        ids[name] = writer.composite(f"with_{name}", 8, ("p", pointer, 0))
    node = writer.composite("bpf_list_node", 24)
    element = writer.composite("element", 24, ("n", node, 0))
    lock = writer.composite("bpf_spin_lock", 4)
    head = writer.composite("bpf_list_head", 16)
    ids["bpf_list_head"] = writer.composite(
        "with_list", 24, ("l", lock, 0), ("h", head, 64)
    )
    tag = f"contains:element:{'n' if element else ''}"
    writer.add(Kind.DECL_TAG, tag, value=ids["bpf_list_head"], words=[1])
    for name in ("bpf_timer", "bpf_wq", "bpf_task_work", "bpf_refcount"):
        special = writer.composite(name, FIELD_SIZES[name])
        ids[name] = writer.composite(
            f"with_{name}", -(-FIELD_SIZES[name] // 8) * 8, ("f", special, 0)
        )
    ids["bpf_spin_lock"] = writer.composite("with_lock", 8, ("f", lock, 0))
    var = writer.var("g", ids["kptr"])
    ids["section"] = writer.datasec(".bss", 8, (var, 0, 8))
    types = KernelTypes(recorded_kernel("kernel"), lambda name, btf: True)
    loaded = LoadedBtf(writer.to_bytes(), rules)
    loaded.check(types)
    return loaded, ids, types


def verdict(
    type: MapType,
    value: str = "kptr",
    *,
    key: str | None = "int",
    flags: int = 0,
    rules: KernelRules = RULES_6_18,
    entries: int | None = None,
    value_size: int | None = None,
) -> MapVerdict:
    loaded, ids, types = world(rules)
    key_id = ids[key] if key else 0
    sizes = [loaded.graph.sized(i) for i in (key_id, ids[value])]
    key_size, size = (found[1] if found else 0 for found in sizes)
    if type in STORAGE and type not in (
        MapType.CGROUP_STORAGE,
        MapType.PERCPU_CGROUP_STORAGE,
    ):
        flags |= MapFlag.NO_PREALLOC
    map = BpfMap(
        "m",
        ".maps",
        type,
        key_size,
        size if value_size is None else value_size,
        (0 if type in STORAGE else 1) if entries is None else entries,
        flags,
        key_id,
        ids[value],
    )
    return map_create(map, loaded, types, rules)


def result(found: MapVerdict) -> str:
    return found.refusal.result if found.refusal else "0"


@pytest.mark.parametrize("type", sorted(KPTR_TYPES), ids=type_name)
@pytest.mark.parametrize("value", ["kptr", "kptr_untrusted", "percpu_kptr"])
def test_these_maps_may_have_kptrs(type: MapType, value: str) -> None:
    found = verdict(type, value)

    assert result(found) == "0"
    assert [field.kind for field, _ in found.record.fields] == [value]


@pytest.mark.parametrize(
    ("type", "key", "flags"),
    [
        (MapType.LPM_TRIE, "prefix", 1),
        (MapType.CGROUP_STORAGE, "cgroup", 0),
        (MapType.CGROUP_STORAGE, "long", 0),
        (MapType.PERCPU_CGROUP_STORAGE, "long", 0),
        (MapType.BLOOM_FILTER, None, 0),
        (MapType.STACK_TRACE, "int", 0),
        (MapType.SOCKMAP, "int", 0),
        (MapType.REUSEPORT_SOCKARRAY, "int", 0),
    ],
)
def test_other_maps_may_not(type: MapType, key: str | None, flags: int) -> None:
    found = verdict(type, key=key, flags=flags)

    assert result(found) == "-ENOTSUP"
    assert [field.kind for field, _ in found.record.fields] == ["kptr"]
    assert found.retry is None


ALL_BUT_KPTRS = {
    "bpf_spin_lock": {MapType.HASH, MapType.ARRAY, MapType.SK_STORAGE},
    "bpf_timer": {MapType.HASH, MapType.ARRAY, MapType.LRU_HASH},
    "bpf_wq": {MapType.HASH, MapType.ARRAY, MapType.LRU_HASH},
    "bpf_task_work": {MapType.HASH, MapType.ARRAY, MapType.LRU_HASH},
    "bpf_list_head": {MapType.HASH, MapType.ARRAY},
    "bpf_refcount": KPTR_TYPES,
    "uptr": {MapType.TASK_STORAGE},
}


@pytest.mark.parametrize("value", ALL_BUT_KPTRS)
def test_every_kind_of_field_has_its_types_of_map(value: str) -> None:
    some = {*KPTR_TYPES} - {MapType.INODE_STORAGE, MapType.CGRP_STORAGE}
    if value in ("bpf_spin_lock", "bpf_list_head"):
        some -= {MapType.TASK_STORAGE}
    if value == "bpf_list_head":
        # Its lock is not allowed in an LRU map.
        some -= {MapType.SK_STORAGE}

    good = {type for type in some if result(verdict(type, value)) == "0"}

    assert good == ALL_BUT_KPTRS[value] & some


@pytest.mark.parametrize(
    ("value", "errno"),
    [
        ("uptr", "0"),
        ("uptr_large", "-E2BIG"),
        ("uptr_empty", "-EINVAL"),
        ("uptr_kernel", "-EINVAL"),
    ],
)
def test_a_uptr_points_to_at_most_a_page_of_the_object_s_own(
    value: str, errno: str
) -> None:
    assert result(verdict(MapType.TASK_STORAGE, value)) == errno


def test_pages_are_as_large_as_the_kernel_s() -> None:
    large = RULES_6_18._replace(page_size=65536)

    assert result(verdict(MapType.TASK_STORAGE, "uptr_large", rules=large)) == "0"


@pytest.mark.parametrize(
    ("flags", "value", "errno"),
    [
        (MapFlag.RDONLY_PROG, "kptr", "-EACCES"),
        (MapFlag.WRONLY_PROG, "bpf_timer", "-EACCES"),
        (MapFlag.RDONLY_PROG, "plain", "0"),
        (MapFlag.RDONLY_PROG | MapFlag.WRONLY_PROG, "plain", "-EINVAL"),
        (MapFlag.MMAPABLE, "kptr", "0"),
        (MapFlag.RDONLY | MapFlag.WRONLY, "kptr", "-EINVAL"),
        (MapFlag.NO_PREALLOC, "kptr", "-EINVAL"),
    ],
)
def test_flags_of_an_array(flags: MapFlag, value: str, errno: str) -> None:
    assert result(verdict(MapType.ARRAY, value, flags=flags)) == errno


def test_an_lru_map_is_always_preallocated() -> None:
    found = verdict(MapType.LRU_HASH, flags=MapFlag.NO_PREALLOC)

    assert result(found) == "-ENOTSUPP"
    assert found.retry is not None


@pytest.mark.parametrize(
    ("type", "value", "key", "errno"),
    [
        (MapType.ARRAY, "section", None, "0"),
        (MapType.ARRAY, "plain", None, "-EINVAL"),
        (MapType.HASH, "kptr", None, "-EINVAL"),
        (MapType.QUEUE, "kptr", None, "-EINVAL"),
        (MapType.QUEUE, "plain", None, "0"),
        (MapType.STACK_TRACE, "plain", "int", "0"),
        (MapType.SK_STORAGE, "kptr", "long", "-EINVAL"),
        (MapType.LPM_TRIE, "plain", "long", "-EINVAL"),
        (MapType.BLOOM_FILTER, "plain", None, "0"),
    ],
)
def test_the_type_of_the_key_counts_where_there_is_btf(
    type: MapType, value: str, key: str | None, errno: str
) -> None:
    flags = MapFlag.NO_PREALLOC if type is MapType.LPM_TRIE else 0
    found = verdict(type, value, key=key, flags=flags)
    if type is MapType.ARRAY and key is None:
        loaded, ids, types = world(RULES_6_18)
        map = BpfMap("m", value, type, 4, 8, 1, 0, 0, ids[value])
        found = map_create(map, loaded, types, RULES_6_18)

    assert result(found) == errno


def test_sizes_are_those_of_the_types() -> None:
    assert result(verdict(MapType.ARRAY, value_size=16)) == "-EINVAL"
    assert result(verdict(MapType.ARRAY, entries=0)) == "-EINVAL"
    assert result(verdict(MapType.SK_STORAGE, entries=1)) == "-EINVAL"


@pytest.mark.parametrize(
    ("size", "flags", "errno"),
    [
        (8, 0, "0"),
        (12, 0, "-EINVAL"),
        (1016, 0, "0"),
        (1024, 0, "-EINVAL"),
        (32, MapFlag.STACK_BUILD_ID, "0"),
        (40, MapFlag.STACK_BUILD_ID, "-EINVAL"),
        (4064, MapFlag.STACK_BUILD_ID, "0"),
    ],
)
def test_a_stack_trace_has_whole_frames(size: int, flags: int, errno: str) -> None:
    _, _, types = world(RULES_6_18)
    map = BpfMap("m", ".maps", MapType.STACK_TRACE, 4, size, 1, flags, 0, 0)

    assert result(map_create(map, None, types, RULES_6_18)) == errno


def test_a_value_that_cannot_be_parsed_is_swallowed() -> None:
    writer = BtfWriter()
    number = writer.integer()
    task = writer.composite("task_struct", 4)
    pointer = writer.pointer(writer.add(Kind.TYPE_TAG, "kptr", value=task))
    value = writer.composite("v", 96, ("p", writer.array(pointer, 12), 0))
    types = KernelTypes(recorded_kernel("kernel"), lambda name, btf: True)
    loaded = LoadedBtf(writer.to_bytes(), RULES_6_18)
    map = BpfMap("m", ".maps", MapType.LPM_TRIE, 4, 96, 1, 1, number, value)
    array = map._replace(type=MapType.ARRAY, map_flags=MapFlag.RDONLY_PROG)

    found = map_create(array, loaded, types, RULES_6_18)

    assert (found.refusal, found.record.fields) == (None, ())
    assert found.swallowed is not None
    assert found.swallowed.result == "-E2BIG"


def test_without_its_btf_a_map_has_no_fields_and_storage_cannot_be_made() -> None:
    _, ids, types = world(RULES_6_18)
    map = BpfMap("m", ".maps", MapType.ARRAY, 4, 8, 1, 0, ids["int"], ids["kptr"])
    storage = map._replace(type=MapType.SK_STORAGE, max_entries=0, map_flags=1)

    found = map_create(map, None, types, RULES_6_18)
    assert (found.refusal, found.record.fields) == (None, ())
    assert result(map_create(storage, None, types, RULES_6_18)) == "-EINVAL"


def test_resizable_hashes_come_with_7() -> None:
    assert result(verdict(MapType.RHASH)) == "-EINVAL"
    assert result(verdict(MapType.RHASH, rules=RULES_7)) == "0"
    assert result(verdict(MapType.RHASH, "bpf_list_head", rules=RULES_7)) == "-ENOTSUP"
