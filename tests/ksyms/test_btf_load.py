"""What BPF_BTF_LOAD says: layouts that no object of the recorded cases has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms.bpf.btf_load import LoadedBtf, btf_load
from ksyms.bpf.fields import IN_MAPS, FieldFinder
from ksyms.bpf.ignored import IgnoredPointers
from ksyms.bpf.kernel_rules import RULES_6_18, RULES_7, KernelRules, rules_for
from ksyms.bpf.refusal import RefusedError
from ksyms.bpf.targets import AnyTypes, KernelTypes
from ksyms.btf import Btf
from ksyms.btf_types import Kind
from ksyms.errors import BtfError
from ksyms.kernel import Kernel
from tests.ksyms import bpf_cases
from tests.ksyms.btf_layouts import FIELD_SIZES, Layouts
from tests.ksyms.btf_writer import BtfWriter
from tests.ksyms.kernels import recorded_kernel

Build = Callable[[BtfWriter], object]


def verdict(
    build: Build, rules: KernelRules = RULES_6_18, *, kernel: Kernel | None = None
) -> str:
    """The errno's name for the BTF that *build* writes; "0" if it is taken."""
    writer = BtfWriter()
    writer.integer()
    build(writer)
    owned = {"task_struct", "cgroup"}
    types = KernelTypes(
        kernel or recorded_kernel("kernel"), lambda name, btf: name in owned
    )
    refusal = btf_load(writer.to_bytes(), rules, types)
    return refusal.result if refusal else "0"


def special(writer: BtfWriter, name: str) -> int:
    return writer.composite(name, FIELD_SIZES[name])


def kptr(writer: BtfWriter, target: int, tag: str = "kptr") -> int:
    return writer.pointer(writer.add(Kind.TYPE_TAG, tag, value=target))


def owner_of_itself(tag: str) -> Build:
    def build(writer: BtfWriter) -> None:
        struct = writer.next_id + 2
        pointer = kptr(writer, struct, tag)
        assert writer.composite("mine_alone", 8, ("p", pointer, 0)) == struct

    return build


@pytest.mark.parametrize(
    ("tag", "later"),
    [("kptr", "-ELOOP"), ("percpu_kptr", "-ELOOP"), ("kptr_untrusted", "0")],
)
def test_a_struct_may_own_itself_until_6_18(tag: str, later: str) -> None:
    assert verdict(owner_of_itself(tag)) == "0"
    assert verdict(owner_of_itself(tag), RULES_7) == later


# Structs owning each other in a row, the last one a plain struct; pointer, tag and
# struct are three types each.
def owners_in_a_row(count: int) -> Build:
    def build(writer: BtfWriter) -> None:
        first = writer.next_id
        for number in range(count):
            pointer = kptr(writer, first + 3 * number + 5)
            writer.composite(f"owner_{number}", 8, ("next", pointer, 0))
        writer.integer("a", 8)
        writer.integer("b", 8)
        writer.composite("leaf", 4)

    return build


@pytest.mark.parametrize(("count", "later"), [(8, "0"), (9, "-ELOOP")])
def test_from_7_on_eight_owners_in_a_row_are_the_most(count: int, later: str) -> None:
    assert verdict(owners_in_a_row(count)) == "0"
    assert verdict(owners_in_a_row(count), RULES_7) == later


# Each but the first is in the list of the one before it.
def lists_of_lists(count: int) -> Build:
    def build(writer: BtfWriter) -> None:
        lock = special(writer, "bpf_spin_lock")
        head = special(writer, "bpf_list_head")
        node = special(writer, "bpf_list_node")
        for number in range(count):
            last = number == count - 1
            members = [] if number == 0 else [("node", node, 0)]
            if not last:
                members += [("lock", lock, 192), ("head", head, 256)]
            owner = writer.composite(f"level_{number}", 24 if last else 48, *members)
            if not last:
                tag = f"contains:level_{number + 1}:node"
                component = len(members) - 1
                writer.add(Kind.DECL_TAG, tag, value=owner, words=[component])

    return build


@pytest.mark.parametrize(
    ("count", "until_6_18", "later"),
    [(2, "0", "0"), (3, "0", "0"), (4, "-ELOOP", "0"), (9, "-ELOOP", "-ELOOP")],
)
def test_lists_of_lists_of_lists_are_refused_until_6_18_and_later_when_deep(
    count: int, until_6_18: str, later: str
) -> None:
    assert verdict(lists_of_lists(count)) == until_6_18
    assert verdict(lists_of_lists(count), RULES_7) == later


def tags(*names: str, beside: bool = True) -> Build:
    def build(writer: BtfWriter) -> None:
        type_id = writer.composite("task_struct", 4)
        good = kptr(writer, type_id)
        for name in reversed(names):
            type_id = writer.add(Kind.TYPE_TAG, name, value=type_id)
        members = [("good", good, 64)] if beside else []
        writer.composite("v", 16, ("p", writer.pointer(type_id), 0), *members)

    return build


@pytest.mark.parametrize(
    ("names", "until_6_18", "later"),
    [
        (["kptr"], "0", "0"),
        (["rcu"], "-EINVAL", "0"),
        (["kptr", "rcu"], "-EINVAL", "0"),
        (["rcu", "kptr"], "-EINVAL", "0"),
        (["kptr", "kptr"], "-EINVAL", "0"),
        (["kptr", "kptr_untrusted"], "-EINVAL", "-EINVAL"),
        (["kptr_ref"], "-EINVAL", "0"),
    ],
)
def test_tags_beside_a_kptr_are_one_and_known_until_6_18(
    names: list[str], until_6_18: str, later: str
) -> None:
    assert verdict(tags(*names)) == until_6_18
    assert verdict(tags(*names), RULES_7) == later


def locks(*, nested: bool) -> Build:
    def build(writer: BtfWriter) -> None:
        lock = special(writer, "bpf_spin_lock")
        inner = writer.composite("inner", 4, ("lock", lock, 0))
        second = inner if nested else lock
        writer.composite("v", 8, ("a", lock, 0), ("b", second, 32))

    return build


def test_a_second_lock_in_a_nested_struct_is_seen_from_7_on() -> None:
    assert verdict(locks(nested=False)) == "-E2BIG"
    assert verdict(locks(nested=True)) == "0"
    assert verdict(locks(nested=True), RULES_7) == "-E2BIG"


def test_reference_counts_were_unique_before_task_work_came() -> None:
    def build(writer: BtfWriter) -> None:
        count = special(writer, "bpf_refcount")
        writer.composite("v", 8, ("a", count, 0), ("b", count, 32))

    old = RULES_6_18._replace(kinds=RULES_6_18.kinds - {"bpf_task_work"})
    assert verdict(build, old) == "-E2BIG"
    assert verdict(build) == "0"


def nested(depth: int, *, inner_first: bool) -> Build:
    def build(writer: BtfWriter) -> None:
        target = writer.composite("task_struct", 4)
        pointer = kptr(writer, target)
        ids = range(writer.next_id, writer.next_id + depth)
        for number, type_id in enumerate(ids):
            if inner_first:
                member = pointer if number == 0 else type_id - 1
            else:
                member = pointer if type_id == ids[-1] else type_id + 1
            writer.composite(f"s{number}", 8, ("m", member, 0))

    return build


# A type that is resolved already takes no place on the stack: then it is the finder
# that gives up, and only where a struct of the kernel's interest is outermost.
@pytest.mark.parametrize(
    ("depth", "inner_first", "errno"),
    [(32, False, "0"), (33, False, "-E2BIG"), (60, False, "-E2BIG"), (60, True, "0")],
)
def test_types_are_resolved_32_deep(depth: int, inner_first: bool, errno: str) -> None:
    assert verdict(nested(depth, inner_first=inner_first)) == errno


@pytest.mark.parametrize(("depth", "found"), [(32, True), (33, False)])
def test_fields_are_found_31_structs_down(depth: int, found: bool) -> None:
    writer = BtfWriter()
    nested(depth, inner_first=True)(writer)
    btf = Btf.from_bytes(writer.to_bytes())
    finder = FieldFinder(btf, RULES_6_18)
    outermost = btf.lookup(f"s{depth - 1}", Kind.STRUCT)

    if found:
        (field,) = finder.find(outermost, IN_MAPS)
        assert (field.kind, field.path) == ("kptr", ".m" * depth)
    else:
        with pytest.raises(RefusedError, match="32 deep"):
            finder.find(outermost, IN_MAPS)


def test_a_kernel_without_btf_takes_no_kptr() -> None:
    nothing = Kernel(name="bare", symbols=None, btf=None)

    assert verdict(tags("kptr"), kernel=nothing) == "-EINVAL"
    assert verdict(locks(nested=True), kernel=nothing) == "0"


def test_structs_of_modules_are_the_kernel_s_too(tmp_path: Path) -> None:
    vmlinux = bpf_cases.vmlinux()
    for module, names in (("first", ["a", "both"]), ("second", ["both", "inode"])):
        split = BtfWriter(first_id=vmlinux.end_id, start=len(vmlinux.strings))
        for name in names:
            split.composite(f"{name}_of_a_module", 4)
        split.composite("inode", 4)
        (tmp_path / module).write_bytes(split.to_bytes())
    modules = [(name, tmp_path / name) for name in ("first", "second")]
    kernel = Kernel(name="n", symbols=None, btf=vmlinux, modules=modules)
    asked: list[tuple[str, str]] = []

    def has_destructor(name: str, btf: Btf) -> bool:
        asked.append((name, btf.name))
        return btf.name == "first"

    writer = BtfWriter()
    names = ["a_of_a_module", "both_of_a_module", "inode", "nobody_s"]
    pointers = [kptr(writer, writer.composite(name, 4)) for name in names]
    types = KernelTypes(kernel, has_destructor)
    for number, pointer in enumerate(pointers):
        writer.composite(f"v{number}", 8, ("p", pointer, 0))
    refusal = btf_load(writer.to_bytes(), RULES_6_18, types)

    assert asked == [
        ("a_of_a_module", "first"),
        ("both_of_a_module", "first"),
        ("inode", "vmlinux"),
    ]
    assert refusal is not None
    assert (refusal.result, refusal.struct, refusal.member) == (
        "-ENOENT",
        "struct v2",
        "p",
    )


@pytest.mark.parametrize(
    ("release", "rules"),
    [
        ("6.18.44-fc", RULES_6_18),
        ("6.12.0", RULES_6_18),
        ("7.0.0-rc1", RULES_7),
        ("10.2", RULES_7),
        ("unknown", RULES_6_18),
        (None, RULES_6_18),
    ],
)
def test_the_release_tells_the_rules(release: str | None, rules: KernelRules) -> None:
    assert rules_for(release) == rules


def test_the_kernel_s_own_btf_tells_what_a_release_does_not() -> None:
    assert rules_for("6.18.44", bpf_cases.vmlinux()) == RULES_6_18

    # A stable kernel with the walk and the check of later ones, but without uptr.
    writer = BtfWriter()
    number = writer.integer()
    words = []
    for name in ("BPF_SPIN_LOCK", "BPF_KPTR_REF", "BPF_KPTR_UNREF"):
        words += [writer.string(name), 1]
    writer.add(Kind.ENUM, "btf_field_type", vlen=3, value=4, words=words)
    words = [writer.string("BPF_MAP_TYPE_RHASH"), 35]
    words += [writer.string("__MAX_BPF_MAP_TYPE"), 36]
    writer.add(Kind.ENUM, "bpf_map_type", vlen=2, value=4, words=words)
    walk = writer.proto(number, ("btf", number), ("seen_mask", number))
    writer.func("btf_find_struct_field", walk)
    writer.func("btf_ownership_depth", walk)
    btf = Btf.from_bytes(writer.to_bytes())

    stable = rules_for("6.12.117", btf)
    assert stable.name == "<=6.18"
    assert stable.kinds == {"bpf_spin_lock", "kptr", "kptr_untrusted"}
    assert (stable.unique_in_value, stable.ownership) == (True, "depth")
    assert (stable.every_tag, stable.map_types) == (False, 36)
    assert rules_for(None, btf).name == ">=7.x"


def test_a_tag_that_the_kernel_does_not_have_yet_is_unknown_to_it() -> None:
    old = RULES_6_18._replace(kinds=RULES_6_18.kinds - {"percpu_kptr"})

    assert verdict(tags("percpu_kptr"), old) == "-EINVAL"
    assert verdict(tags("percpu_kptr")) == "0"


# Structs whose members double 40 times: a walk of all of them would take for ever.
def test_a_btf_that_unfolds_without_end_gets_its_answer() -> None:
    writer = BtfWriter()
    writer.integer()
    leaf = kptr(writer, writer.composite("task_struct", 4))
    plain = writer.composite("plain", 0)
    tagged = writer.composite("tagged", 0, kind=Kind.UNION)
    writer.composite("v", 8, ("p", leaf, 0))
    for number in range(28):
        pair = [("a", plain, 0), ("b", plain, 0)]
        plain = writer.composite(f"plain{number}", 0, *pair)
        pair = [("a", tagged, 0), ("b", tagged, 0)] if number else [("p", leaf, 0)]
        tagged = writer.composite(f"tagged{number}", 8, *pair, kind=Kind.UNION)
    value = writer.composite("value", 8, ("x", plain, 0), ("y", tagged, 0))
    btf = Btf.from_bytes(writer.to_bytes())

    assert FieldFinder(btf, RULES_6_18).find(btf[value], IN_MAPS) == []
    ignored = list(IgnoredPointers(btf, RULES_6_18).of_value(value, set(), "", ""))
    assert len(ignored) == 101
    assert "more than 100 others" in ignored[-1].reason


@pytest.mark.parametrize("rules", [RULES_6_18, RULES_7], ids=lambda rules: rules.name)
def test_every_tagged_pointer_is_a_field_or_has_a_reason_of_its_own(
    rules: KernelRules,
) -> None:
    found = 0
    for seed in range(600):
        layouts = Layouts(seed)
        try:
            loaded = LoadedBtf(layouts.to_bytes(), rules)
        except RefusedError:
            continue
        pointers = IgnoredPointers(loaded.btf, rules)
        for struct in map(loaded.btf.__getitem__, layouts.values):
            try:
                fields = loaded.finder.find(struct, IN_MAPS)
            except RefusedError:
                continue
            paths = {f"value{field.path}" for field in fields}
            listed = list(pointers.of_value(struct.id, paths, "", "no reason"))
            assert "no reason" not in {pointer.reason for pointer in listed}, seed
            found += len(listed)
    assert found > 50


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.integers(10000, 1 << 32), st.sampled_from([RULES_6_18, RULES_7]))
def test_any_layout_gets_an_answer_or_a_btf_error(
    seed: int, rules: KernelRules
) -> None:
    data = Layouts(seed).mutated()

    with contextlib.suppress(BtfError):
        btf_load(data, rules, AnyTypes())
        btf = Btf.from_bytes(data)
        pointers = IgnoredPointers(btf, rules)
        for struct in btf.ids(Kind.STRUCT):
            list(pointers.of_value(struct, set(), "", "otherwise"))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.data())
def test_spoiled_btf_of_objects_gets_an_answer_or_a_btf_error(
    data: st.DataObject,
) -> None:
    blobs = [bytes.fromhex(b["btf_hex"]) for b in RAW.values()]
    blob = bytearray(data.draw(st.sampled_from(blobs)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(blob), len(blob) // 2, 30, 3]))

    with contextlib.suppress(BtfError):
        btf_load(bytes(blob[:cut]), RULES_6_18, AnyTypes())


RAW = bpf_cases.recorded("raw_btf")
