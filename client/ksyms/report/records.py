"""The JSON of `ksyms bpf`: one record a check, or an object."""

from __future__ import annotations

from typing import Any

from ksyms.bpf.kptrs import Kptrs, MapField, MapFields
from ksyms.bpf.object import BpfObject
from ksyms.bpf.refusal import Refusal
from ksyms.c_types import spell
from ksyms.check import Answer
from ksyms.resolution import ResolvedExtern


def answer_record(answer: Answer) -> dict[str, Any]:
    """What `ksyms bpf check --json` prints of one object on one kernel."""
    resolution, kptrs = answer
    return {
        "object": resolution.object,
        "kernel": resolution.kernel,
        "result": resolution.result,
        "error": resolution.error,
        "messages": list(resolution.messages),
        "externs": list(map(_extern_record, resolution.externs)),
        "warnings": list(answer.warnings),
        "rules": kptrs.rules,
        "btf_load": _errno(kptrs.btf_load),
        "btf_load_reason": _reason(kptrs.btf_load),
        "maps": list(map(_fields_record, kptrs.maps)),
    }


def _errno(refusal: Refusal | None) -> str | int:
    return refusal.result if refusal else 0


def _reason(refusal: Refusal | None) -> str | None:
    return str(refusal) if refusal else None


def _fields_record(found: MapFields) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": found.map.name,
        "type": found.map.type,
        "value_size": found.map.value_size,
        "map_create": _errno(found.map_create),
        "map_create_reason": _reason(found.map_create),
        "fields": list(map(_field_record, found.fields)),
        "ignored": [pointer._asdict() for pointer in found.ignored],
    }
    if found.mmap is not None:
        record["mmap"] = _errno(found.mmap)
        record["mmap_reason"] = _reason(found.mmap)
    if found.inner is not None:
        record["inner"] = _fields_record(found.inner)
    return record


def _field_record(field: MapField) -> dict[str, Any]:
    return {
        "off": field.offset,
        "kind": field.kind,
        "path": field.path,
        "target": field.target.name if field.target else None,
        "where": field.target.where if field.target else None,
    }


def _extern_record(found: ResolvedExtern) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": found.extern.name,
        "kind": found.extern.kind,
        "weak": found.extern.is_weak,
        "status": found.status,
    }
    if found.address is not None:
        record["addr"] = f"{found.address:#x}"
    if found.btf is not None:
        record["btf"] = found.btf
        record["btf_id"] = found.btf_id
    if found.message is not None:
        record["message"] = found.message
    return record


def object_record(obj: BpfObject, kptrs: Kptrs) -> dict[str, Any]:
    """What `ksyms bpf dump --json` prints of one object. Raises BtfError."""
    uses: dict[str, list[dict[str, Any]]] = {extern.name: [] for extern in obj.externs}
    for use in obj.uses:
        uses[use.extern].append({"section": use.section, "offset": use.offset})
    return {
        "object": obj.name,
        "byteorder": obj.byteorder,
        "compiler": obj.compiler,
        "result": obj.failures[0].result if obj.failures else "ok",
        "messages": [failure.message for failure in obj.failures],
        "externs": [
            {
                "name": extern.name,
                "essential_name": extern.essential_name,
                "kind": extern.kind,
                "weak": extern.is_weak,
                "type": spell(obj.btf, extern.btf_id) if obj.btf else None,
                "uses": uses[extern.name],
            }
            for extern in obj.externs
        ],
        "warnings": list(kptrs.warnings),
        "rules": kptrs.rules,
        "btf_load": _errno(kptrs.btf_load),
        "btf_load_reason": _reason(kptrs.btf_load),
        "maps": [_map_record(obj, found) for found in kptrs.maps],
    }


def _map_record(obj: BpfObject, fields: MapFields) -> dict[str, Any]:
    found = fields.map

    def type_name(type_id: int) -> str | None:
        # A map of global data has a section for its value, which no C type spells.
        if obj.btf is None or not type_id or found.variables:
            return None
        return spell(obj.btf, type_id)

    return {
        "name": found.name,
        "type": found.type,
        "key_size": found.key_size,
        "value_size": found.value_size,
        "max_entries": found.max_entries,
        "flags": f"{found.map_flags:#x}",
        "key": type_name(found.key_type_id),
        "value": type_name(found.value_type_id),
        **_fields_record(fields),
    }
