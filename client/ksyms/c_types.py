"""Spells a BTF type as C does: ``struct task_struct *(*)(int)``."""

from __future__ import annotations

from ksyms.btf import Btf
from ksyms.btf_types import EXTERN, Kind

_DEPTH = 32
_TAGS = {Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum"}
_TAGS[Kind.ENUM64] = "enum"
_QUALIFIERS = {
    Kind.CONST: "const",
    Kind.VOLATILE: "volatile",
    Kind.RESTRICT: "restrict",
}


def spell(btf: Btf, type_id: int, name: str = "", *, depth: int = _DEPTH) -> str:
    """A declaration of *name* (or the bare type) with *type_id*; raises BtfError."""
    if depth <= 0:
        return f"... {name}".strip()
    type = btf[type_id]

    def inner(type_id: int, name: str) -> str:
        return spell(btf, type_id, name, depth=depth - 1)

    if type.kind is Kind.PTR:
        target = btf[type.type_id]
        if target.kind in (Kind.ARRAY, Kind.FUNC_PROTO):
            return inner(target.id, f"(*{name})")
        return inner(target.id, f"*{name}")
    if type.kind is Kind.ARRAY:
        array = btf.array(type)
        return inner(array.type_id, f"{name}[{array.nelems}]")
    if type.kind is Kind.FUNC_PROTO:
        params = [inner(i, p) if i else "..." for p, i in btf.params(type)] or ["void"]
        return inner(type.type_id, f"{name}({', '.join(params)})")
    if type.kind in _QUALIFIERS:
        word = _QUALIFIERS[type.kind]
        # A qualifier of a pointer stands behind its star.
        if btf[type.type_id].kind is Kind.PTR:
            return inner(type.type_id, f"{word} {name}".strip())
        return f"{word} {inner(type.type_id, name)}"
    if type.kind is Kind.TYPE_TAG:
        return inner(type.type_id, f"__{type.name} {name}".strip())
    if type.kind in (Kind.VAR, Kind.FUNC):
        extern = "extern " if btf.linkage(type) == EXTERN else ""
        return extern + inner(type.type_id, type.name)
    if type.kind is Kind.VOID:
        return f"void {name}".strip()
    word = _TAGS.get(type.kind, "")
    if type.kind is Kind.FWD:
        word = "union" if type.kflag else "struct"
    spelled = type.name or "{...}"
    return " ".join(part for part in (word, spelled, name) if part)
