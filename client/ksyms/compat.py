"""Whether two types of two BTFs are compatible, as libbpf decides it.

libbpf 1.8, src/relo_core.c, __bpf_core_types_are_compat(): names, sizes and array
lengths do not count, and typedefs, qualifiers and type tags are stepped over.
"""

from __future__ import annotations

from ksyms.btf import Btf
from ksyms.btf_types import Kind, Type

DEPTH = 32  # steps through pointers and arrays, and prototypes within prototypes

_SAME = frozenset({Kind.VOID, Kind.STRUCT, Kind.UNION, Kind.FWD})
_ENUMS = frozenset({Kind.ENUM, Kind.ENUM64})


def types_are_compatible(
    local: Btf, local_id: int, target: Btf, target_id: int
) -> bool:
    """Whether *local_id* of *local* may stand for *target_id* of *target*.

    Too deep a nesting counts as incompatible. Raises BtfError for a reference to a
    type that is not there.
    """
    return _Comparison(local, target).run(local_id, target_id, DEPTH)


class _Comparison:
    # Prototypes may refer to themselves through several parameters: without a memory
    # of what was compared the time would be exponential.
    def __init__(self, local: Btf, target: Btf) -> None:
        self.local = local
        self.target = target
        self.known: dict[tuple[int, int, int], bool] = {}

    def run(self, local_id: int, target_id: int, level: int) -> bool:
        key = local_id, target_id, level
        if key not in self.known:
            self.known[key] = self.compare(*key)
        return self.known[key]

    def compare(self, local_id: int, target_id: int, level: int) -> bool:
        local, target = self.local, self.target
        # Before anything is stepped over, the kinds must agree already.
        if not _same_kind(local[local_id].kind, target[target_id].kind):
            return False
        for _ in range(DEPTH):
            ours = local.skip_modifiers(local_id)
            theirs = target.skip_modifiers(target_id)
            if not _same_kind(ours.kind, theirs.kind):
                return False
            kind = ours.kind
            if kind in _SAME or kind in _ENUMS:
                return True
            if kind is Kind.INT:
                # Only a bit-field of old is no match for every other integer.
                return not (
                    local.encoding(ours).bit_offset
                    or target.encoding(theirs).bit_offset
                )
            if kind is Kind.PTR:
                local_id, target_id = ours.type_id, theirs.type_id
            elif kind is Kind.ARRAY:
                local_id = local.array(ours).type_id
                target_id = target.array(theirs).type_id
            elif kind is Kind.FUNC_PROTO and self.params_match(ours, theirs, level):
                local_id = local.skip_modifiers(ours.type_id).id
                target_id = target.skip_modifiers(theirs.type_id).id
            else:
                return False  # also FLOAT, which libbpf did not expect
        return False

    def params_match(self, ours: Type, theirs: Type, level: int) -> bool:
        local, target = self.local, self.target
        if ours.vlen != theirs.vlen or (ours.vlen and level <= 0):
            return False
        params = zip(local.params(ours), target.params(theirs), strict=True)
        return all(
            self.run(
                local.skip_modifiers(mine.type_id).id,
                target.skip_modifiers(yours.type_id).id,
                level - 1,
            )
            for mine, yours in params
        )


def _same_kind(ours: Kind, theirs: Kind) -> bool:
    return ours is theirs or (ours in _ENUMS and theirs in _ENUMS)
