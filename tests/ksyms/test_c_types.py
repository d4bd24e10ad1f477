"""Types spelled as C declares them."""

from __future__ import annotations

import pytest

from ksyms.btf import Btf
from ksyms.btf_types import EXTERN, Kind
from ksyms.c_types import spell
from tests.ksyms.btf_writer import BtfWriter


def types() -> tuple[Btf, dict[str, int]]:
    w = BtfWriter()
    i = {"int": w.integer()}
    i["struct s"] = w.composite("s", 4)
    i["struct {...}"] = w.composite("", 4)
    i["union u"] = w.add(Kind.FWD, "u", kflag=True)
    i["struct s *"] = w.pointer(i["struct s"])
    i["const struct s *"] = w.pointer(w.add(Kind.CONST, value=i["struct s"]))
    i["struct s *const"] = w.add(Kind.CONST, value=i["struct s *"])
    i["struct s *const *"] = w.pointer(i["struct s *const"])
    i["int [3][4]"] = w.array(w.array(i["int"], 4), 3)
    i["int (*)[4]"] = w.pointer(w.array(i["int"], 4))
    proto = w.proto(i["struct s *"], ("a", i["int"]), ("", 0))
    i["struct s *(*)(int a, ...)"] = w.pointer(proto)
    i["void *"] = w.pointer(0)
    i["struct s __kptr *"] = w.pointer(w.add(Kind.TYPE_TAG, "kptr", value=2))
    i["extern int v"] = w.var("v", i["int"], EXTERN)
    i["extern struct s *f(int a, ...)"] = w.func("f", proto, EXTERN)
    i["void g(void)"] = w.func("g", w.proto(0))
    return Btf.from_bytes(w.to_bytes()), i


@pytest.mark.parametrize("text", types()[1])
def test_c_spelling(text: str) -> None:
    btf, ids = types()

    assert spell(btf, ids[text]).replace(" [", "[") == text.replace(" [", "[")


def test_a_type_in_a_circle_ends() -> None:
    writer = BtfWriter()
    writer.pointer(1)

    assert spell(Btf.from_bytes(writer.to_bytes()), 1).startswith("...")
