"""Would BPF_MAP_CREATE take this map with its BTF, and with which fields?

kernel/bpf/syscall.c, map_check_btf(): that the value's fields cannot be parsed is no
error there; the map then is one without fields.
"""

from __future__ import annotations

from errno import E2BIG, EACCES, EINVAL, EOPNOTSUPP
from typing import NamedTuple

from ksyms.bpf.btf_load import LoadedBtf, Record
from ksyms.bpf.fields import IN_MAPS
from ksyms.bpf.kernel_rules import UPTR, KernelRules
from ksyms.bpf.map_types import (
    TYPES_WITH,
    WITHOUT_BTF,
    check_attributes,
    check_key,
    check_keyless,
    is_read_only,
    type_name,
)
from ksyms.bpf.maps import BpfMap
from ksyms.bpf.refusal import Refusal, RefusedError, refused
from ksyms.bpf.targets import LOCAL, Types
from ksyms.btf_types import Type

_NONE = Record(())


class MapVerdict(NamedTuple):
    """What becomes of a map."""

    refusal: Refusal | None
    """Of BPF_MAP_CREATE; None when the map is created."""
    record: Record
    """The fields that the kernel finds in the value, refused or not."""
    swallowed: Refusal | None
    """Why it finds none, which BPF_MAP_CREATE does not tell."""
    retry: Refusal | None
    """Of libbpf's second try, without BTF, where the first was refused."""


def map_create(
    map: BpfMap, loaded: LoadedBtf | None, types: Types, rules: KernelRules
) -> MapVerdict:
    """The verdict on *map*; *loaded* is None where its BTF is not in the kernel."""
    record, swallowed = _NONE, None
    value = loaded.graph.sized(map.value_type_id) if loaded else None
    if loaded is not None and value is not None:
        type = loaded.btf[value[0].id]
        try:
            record = loaded.record(type, IN_MAPS, value[1], types)
        except RefusedError as error:
            swallowed = error.refusal
    # Of types that libbpf passes no BTF for, fields are all that could matter.
    passes_btf = map.type not in WITHOUT_BTF or bool(record.fields)
    has_types = loaded is not None and passes_btf
    refusal = None
    try:
        if has_types and map.key_type_id and not map.value_type_id:
            raise refused(EINVAL, "the key has a BTF type, the value has none")
        keyed = bool(map.key_type_id and map.value_type_id)
        check_attributes(map, rules, has_btf=has_types and keyed)
        if loaded is not None and has_types and map.value_type_id:
            _check_types(map, loaded, record, types)
    except RefusedError as error:
        refusal = error.refusal
    retry = _refusal_without_btf(map, rules) if refusal else None
    return MapVerdict(refusal, record, swallowed, retry)


def _refusal_without_btf(map: BpfMap, rules: KernelRules) -> Refusal | None:
    try:
        check_attributes(map, rules, has_btf=False)
    except RefusedError as error:
        return error.refusal
    return None


# map_check_btf() in its order.
def _check_types(map: BpfMap, loaded: LoadedBtf, record: Record, types: Types) -> None:
    key = _sized(map.key_type_id, map.key_size, "key", loaded)
    if key is None:
        check_keyless(map)
    value = _sized(map.value_type_id, map.value_size, "value", loaded)
    assert value is not None
    if record.fields:
        _check_fields(map, loaded, value, record, types)
    check_key(map, loaded.btf, key, value)


def _sized(type_id: int, size: int, what: str, loaded: LoadedBtf) -> Type | None:
    if not type_id:
        return None
    found = loaded.graph.sized(type_id)
    if found is None or found[1] != size:
        has = f"{found[1]} bytes" if found else "no size"
        raise refused(EINVAL, f"{what}_size is {size}, but its type has {has}")
    return loaded.btf[found[0].id]


def _check_fields(
    map: BpfMap, loaded: LoadedBtf, value: Type, record: Record, types: Types
) -> None:
    if is_read_only(map):
        raise refused(
            EACCES,
            "special fields in a map with BPF_F_RDONLY_PROG or BPF_F_WRONLY_PROG",
        )
    for kind in record.kinds:
        if map.type not in TYPES_WITH[kind]:
            raise refused(
                EOPNOTSUPP, f"no {kind} in maps of type {type_name(map.type)}"
            )
    for field, target in record.fields:
        if field.kind == UPTR:
            assert target is not None
            pointee = loaded.btf[field.type_id]
            where = {"struct": f"struct {value.name}", "member": field.path[1:]}
            if target.where not in (LOCAL, None):
                raise refused(EINVAL, "uptr to a struct of the kernel", **where)
            if not pointee.size:
                raise refused(EINVAL, "uptr to a struct of size 0", **where)
            if pointee.size > loaded.rules.page_size:
                raise refused(
                    E2BIG, f"uptr to {pointee.size} bytes: more than a page", **where
                )
    loaded.check_roots(value, record, types)
