"""The JSON of `ksyms bpf`: one record a check, or an object."""

from __future__ import annotations

from typing import Any

from ksyms.bpf.maps import BpfMap
from ksyms.bpf.object import BpfObject
from ksyms.c_types import spell
from ksyms.resolution import Resolution, ResolvedExtern


def resolution_record(resolution: Resolution) -> dict[str, Any]:
    """What `ksyms bpf check --json` prints of one object on one kernel."""
    return {
        "object": resolution.object,
        "kernel": resolution.kernel,
        "result": resolution.result,
        "error": resolution.error,
        "messages": list(resolution.messages),
        "externs": list(map(_extern_record, resolution.externs)),
        "warnings": list(resolution.warnings),
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


def object_record(obj: BpfObject) -> dict[str, Any]:
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
        "maps": [_map_record(obj, found) for found in obj.maps],
    }


def _map_record(obj: BpfObject, found: BpfMap) -> dict[str, Any]:
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
    }
