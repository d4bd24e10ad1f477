"""The text of `ksyms bpf`: lines for people, a verdict before its details."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from ksyms.bpf.kptrs import Kptrs, MapField, MapFields
from ksyms.bpf.map_types import type_name
from ksyms.bpf.object import BpfObject
from ksyms.c_types import spell
from ksyms.check import Answer, Check, Report
from ksyms.resolution import ResolvedExtern


def report_text(report: Report) -> Iterator[str]:
    """Each check in full; several objects on several kernels as a matrix, and then
    what fails.
    """
    checks: Iterable[Check] = report.checks
    if len(report.objects) > 1 and len(report.kernels) > 1:
        yield from matrix_text(report)
        checks = [check for check in checks if check.verdict != "ok"]
        if checks:
            yield ""
    for check in checks:
        if check.answer is not None:
            yield from answer_text(check.answer)


def matrix_text(report: Report) -> Iterator[str]:
    """A row an object, a column a kernel, a verdict in each field."""
    rows = [["", *short_names(report.kernels)]]
    for path, name in zip(report.objects, short_names(report.objects), strict=True):
        verdicts = [report.check(path, kernel).verdict for kernel in report.kernels]
        rows.append([name, *verdicts])
    yield from _columns(rows)


def answer_text(answer: Answer) -> Iterator[str]:
    """The verdict, a line an extern, the maps with fields, then warnings."""
    resolution, kptrs = answer
    told = {found.message for found in resolution.externs}
    verdict = answer.verdict
    if answer.errors:
        verdict += f": {answer.errors[0]}"
        told.add(answer.errors[0])
    yield f"{resolution.object} on {resolution.kernel}: {verdict}"
    yield from _columns([["", *_extern_fields(found)] for found in resolution.externs])
    yield from fields_text(kptrs)
    for message in answer.errors:
        if message not in told:
            yield f"  error: {message}"
    for warning in answer.warnings:
        yield f"  warning: {warning}"


def fields_text(kptrs: Kptrs) -> Iterator[str]:
    """A line a special field, and one a pointer that is none, map by map."""
    for found in kptrs.all_maps:
        if not (found.fields or found.ignored):
            continue
        created = f": {found.map_create.result}" if found.map_create else ""
        yield f"  map {found.map.name}{created}"
        yield from _map_text(found)


def _map_text(found: MapFields) -> Iterator[str]:
    yield from _columns([["   ", *_field_fields(field)] for field in found.fields])
    for pointer in found.ignored:
        yield f"    ignored {pointer.path}: {pointer.reason}"


def _field_fields(field: MapField) -> list[str]:
    target = str(field.target) if field.target else ""
    return [f"{field.offset:>4}", field.kind, field.path, target]


def _extern_fields(found: ResolvedExtern) -> list[str]:
    extern = found.extern
    if found.status == "error":
        value = "error"
    elif extern.kind == "kconfig":
        value = "-"
    elif found.btf is not None:
        value = f"{found.btf}:{found.btf_id}"
    else:
        value = f"{found.address or 0:#x}"
    kind = f"weak {extern.kind}" if extern.is_weak else extern.kind
    note = found.message or ("not resolved" if found.status == "unresolved" else "")
    return [value, extern.name, kind, note]


def object_text(obj: BpfObject, kptrs: Kptrs) -> Iterator[str]:
    """What an object wants of a kernel, and its maps. Raises BtfError."""
    built = f", {obj.compiler}" if obj.compiler else ""
    yield f"{obj.name}: {obj.byteorder}-endian{built}"
    for failure in obj.failures:
        yield f"  {failure.result}: {failure.message}"
    used = [use.extern for use in obj.uses]
    rows = []
    for extern in obj.externs:
        kind = f"weak {extern.kind}" if extern.is_weak else extern.kind
        declared = spell(obj.btf, extern.btf_id) if obj.btf else extern.name
        count = used.count(extern.name)
        rows.append(["", kind, declared, f"{count} use{'s' * (count != 1)}"])
    yield from _columns(rows)
    lines = _columns([_map_columns(found) for found in kptrs.all_maps])
    for line, found in zip(lines, kptrs.all_maps, strict=True):
        yield line
        yield from _map_text(found)
    for refusal in kptrs.refusals:
        yield f"  error: {refusal}"
    for warning in kptrs.warnings:
        yield f"  warning: {warning}"


def _map_columns(found: MapFields) -> list[str]:
    map = found.map
    return [
        "",
        "map",
        map.name,
        type_name(map.type).lower(),
        f"key {map.key_size}",
        f"value {map.value_size}",
        f"max {map.max_entries}",
        f"flags {map.map_flags:#x}",
    ]


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of *paths*, as many as tell them apart."""
    parts = [PurePath(path).parts for path in paths]
    depth = 1
    longest = max((len(p) for p in parts), default=1)
    while depth < longest and len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return [str(PurePath(*p[-depth:])) for p in parts]


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        fields = (f"{field:{width}}" for field, width in zip(row, widths, strict=True))
        yield "  ".join(fields).rstrip()
