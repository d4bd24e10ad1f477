"""Types that libbpf takes for one another, row by row of its table."""

from __future__ import annotations

import pytest

from ksyms.btf import Btf
from ksyms.btf_types import Kind
from ksyms.compat import types_are_compatible
from tests.ksyms.btf_writer import BtfWriter


class Shapes(BtfWriter):
    """Ids of one type of every shape, for both sides of a comparison."""

    def __init__(self, order: str = "<") -> None:
        super().__init__(order)
        self.ids: dict[str, int] = {"void": 0}
        i = self.ids
        i["int"] = self.integer()
        i["bool"] = self.integer("bool", 1, flags=4)
        i["u64"] = self.integer("u64", 8, flags=0)
        i["bitfield int"] = self.add(Kind.INT, "bits", value=4, words=[3 << 16 | 5])
        i["enum"] = self.add(Kind.ENUM, "e", vlen=1, value=4, words=[0, 1])
        i["enum64"] = self.add(Kind.ENUM64, "w", vlen=1, value=8, words=[0, 1, 0])
        i["struct a"] = self.composite("a", 4, ("x", i["int"], 0))
        i["struct b"] = self.composite("b", 400)
        i["union"] = self.composite("a", 4, kind=Kind.UNION)
        i["fwd"] = self.add(Kind.FWD, "a")
        i["fwd union"] = self.add(Kind.FWD, "u", kflag=True)
        i["float"] = self.add(Kind.FLOAT, "double", value=8)
        for name in ("void", "int", "struct a", "struct b", "fwd", "enum", "enum64"):
            i[f"{name} *"] = self.pointer(i[name])
        const = self.add(Kind.CONST, value=i["struct a"])
        tag = self.add(Kind.TYPE_TAG, "rcu", value=const)
        i["typedef"] = self.add(
            Kind.TYPEDEF, "t", value=self.add(Kind.VOLATILE, value=tag)
        )
        i["typedef *"] = self.pointer(i["typedef"])
        i["int[3]"] = self.array(i["int"], 3)
        i["int[9]"] = self.array(i["u64"], 9)
        i["struct a[3]"] = self.array(i["struct a"], 3)
        i["void f(void)"] = self.proto(0)
        i["int f(int)"] = self.proto(i["int"], ("x", i["int"]))
        i["u64 f(u64)"] = self.proto(i["u64"], ("y", i["u64"]))
        i["int f(a *)"] = self.proto(i["int"], ("p", i["struct a *"]))
        i["int f(b *)"] = self.proto(i["int"], ("p", i["struct b *"]))
        i["int f(typedef *)"] = self.proto(i["int"], ("p", i["typedef *"]))
        i["int f(void *)"] = self.proto(i["int"], ("p", i["void *"]))
        i["int f(int, int)"] = self.proto(i["int"], ("x", 1), ("y", 1))
        i["void f(int)"] = self.proto(0, ("x", i["int"]))
        i["int f(...)"] = self.proto(i["int"], ("", 0))


def compatible(local: str, target: str) -> bool:
    ours, theirs = Shapes("<"), Shapes(">")
    theirs.integer("one more, so that ids differ")
    return types_are_compatible(
        Btf.from_bytes(ours.to_bytes()),
        ours.ids[local],
        Btf.from_bytes(theirs.to_bytes()),
        theirs.ids[target],
    )


YES = [
    ("void", "void"),
    ("int", "u64"),
    ("int", "bool"),
    ("enum", "enum64"),
    ("enum64", "enum"),
    ("struct a", "struct b"),
    ("union", "union"),
    ("fwd", "fwd union"),
    ("void *", "void *"),
    ("struct a *", "struct b *"),
    ("struct a *", "typedef *"),
    ("enum *", "enum64 *"),
    ("int[3]", "int[9]"),
    ("int f(int)", "u64 f(u64)"),
    ("int f(a *)", "int f(b *)"),
    ("int f(a *)", "int f(typedef *)"),
]
NO = [
    ("void", "int"),
    ("int", "bitfield int"),
    ("bitfield int", "int"),
    ("int", "enum"),
    ("int", "int *"),
    ("int", "int[3]"),
    ("struct a", "union"),
    ("struct a", "fwd"),
    ("void *", "struct a *"),
    ("struct a *", "fwd *"),
    ("int[3]", "struct a[3]"),
    ("float", "float"),
    ("void f(void)", "int f(int)"),
    ("int f(int)", "int f(int, int)"),
    ("int f(int)", "void f(int)"),
    ("int f(void *)", "int f(a *)"),
    ("void f(void)", "int f(...)"),
    # Kinds must agree even before modifiers are stepped over.
    ("typedef", "struct a"),
]


@pytest.mark.parametrize(("local", "target"), YES)
def test_compatible(local: str, target: str) -> None:
    assert compatible(local, target)


@pytest.mark.parametrize(("local", "target"), NO)
def test_incompatible(local: str, target: str) -> None:
    assert not compatible(local, target)
    if "typedef" not in local:
        assert not compatible(target, local)


def pointers(count: int) -> Btf:
    writer = BtfWriter()
    last = writer.integer()
    for _ in range(count):
        last = writer.pointer(last)
    return Btf.from_bytes(writer.to_bytes())


@pytest.mark.parametrize(("count", "expected"), [(31, True), (32, False)])
def test_32_steps_are_taken(count: int, expected: bool) -> None:
    btf = pointers(count)

    assert types_are_compatible(btf, count + 1, btf, count + 1) == expected


def protos(count: int) -> Btf:
    writer = BtfWriter()
    last = writer.proto(0)
    for _ in range(count):
        last = writer.proto(0, ("f", last))
    return Btf.from_bytes(writer.to_bytes())


@pytest.mark.parametrize(("count", "expected"), [(32, True), (33, False)])
def test_prototypes_nest_32_deep(count: int, expected: bool) -> None:
    btf = protos(count)

    assert types_are_compatible(btf, count + 1, btf, count + 1) == expected


def test_prototypes_of_themselves_do_not_take_forever() -> None:
    writer = BtfWriter()
    writer.proto(0, *(("f", 1) for _ in range(8)))
    btf = Btf.from_bytes(writer.to_bytes())

    assert not types_are_compatible(btf, 1, btf, 1)
