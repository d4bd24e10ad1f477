"""The report as one self-contained page: the matrix, and every check behind it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ksyms.bpf.kptrs import Kptrs, MapField, MapFields
from ksyms.check import Answer, Check, Report
from ksyms.report.text import short_names
from ksyms.resolution import ResolvedExtern

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ok: #1a7f37; --bad: #cf222e;
  --warn: #9a6700; --dim: #656d76; }
@media (prefers-color-scheme: dark) { :root { --ok: #3fb950; --bad: #f85149;
  --warn: #d29922; --dim: #9198a1; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
code, td, th, summary { font-family: ui-monospace, monospace; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; }
thead th { font-weight: 600; }
.ok { color: var(--ok); }
.bad { color: var(--bad); font-weight: 600; }
.warn { color: var(--warn); }
.dim { color: var(--dim); }
td a { color: inherit; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { cursor: pointer; padding: .4rem .8rem; overflow-wrap: anywhere; }
details > div { padding: 0 .8rem .8rem; }
ul { margin: .5rem 0; padding-left: 1.2rem; }
li { overflow-wrap: anywhere; }
.matrix td, .matrix th { white-space: nowrap; }
"""


def html_page(report: Report) -> str:
    """The page: HTML 5, UTF-8, no script, nothing loaded from elsewhere."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    ok = sum(check.verdict == "ok" for check in report.checks)
    total = len(report.checks)
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield "<title>ksyms bpf check</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield "<h1>Would these BPF objects load?</h1>"
    verdict = "ok" if ok == total else "bad"
    yield (
        f'<p><span class="{verdict}">{ok} of {total}</span> checks pass: '
        f"{_count(report.objects, 'object')} on {_count(report.kernels, 'kernel')}.</p>"
    )
    yield from _matrix(report)
    yield "<h2>Details</h2>"
    for number, check in enumerate(report.checks):
        yield from _details(check, number)
    yield "</body></html>"


def _count(things: tuple[str, ...], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _matrix(report: Report) -> Iterator[str]:
    yield '<div class="scroll"><table class="matrix"><thead><tr><th>object</th>'
    for path, name in zip(report.kernels, short_names(report.kernels), strict=True):
        yield f'<th scope="col" title="{_text(path)}">{_text(name)}</th>'
    yield "</tr></thead><tbody>"
    width = len(report.objects)
    for row, name in enumerate(short_names(report.objects)):
        title = _text(report.objects[row])
        yield f'<tr><th scope="row" title="{title}">{_text(name)}</th>'
        for column in range(len(report.kernels)):
            number = column * width + row
            check = report.checks[number]
            yield f'<td><a href="#c{number}">{_verdict(check)}</a></td>'
        yield "</tr>"
    yield "</tbody></table></div>"


def _verdict(check: Check) -> str:
    if check.verdict != "ok":
        return f'<span class="bad">{_text(check.verdict)}</span>'
    count = _doubts(check.answer) if check.answer else 0
    if count:
        noun = f"warning{'s' * (count != 1)}"
        return f'<span class="warn">ok, {count} {noun}</span>'
    return '<span class="ok">ok</span>'


def _details(check: Check, number: int) -> Iterator[str]:
    is_open = " open" if check.verdict != "ok" else ""
    yield f'<details id="c{number}"{is_open}><summary>{_text(check.object)} '
    yield f'<span class="dim">on</span> {_text(check.kernel)}: {_verdict(check)}'
    yield "</summary><div>"
    if check.answer is None:
        yield f'<p class="bad">{_text(check.unreadable or "")}</p>'
    else:
        yield from _answer(check.answer)
    yield "</div></details>"


# Warnings, and pointers that are not what they look like.
def _doubts(answer: Answer) -> int:
    ignored = sum(len(found.ignored) for found in answer.kptrs.all_maps)
    return len(answer.warnings) + ignored


def _answer(found: Answer) -> Iterator[str]:
    if found.errors:
        yield "<ul>"
        for message in found.errors:
            yield f'<li class="bad">{_text(message)}</li>'
        yield "</ul>"
    if found.warnings:
        yield "<ul>"
        for warning in found.warnings:
            yield f'<li class="warn">{_text(warning)}</li>'
        yield "</ul>"
    if found.resolution.externs:
        yield '<div class="scroll"><table><thead><tr><th>extern</th><th>kind</th>'
        yield "<th>status</th><th>address or BTF id</th></tr></thead><tbody>"
        yield from map(_row, found.resolution.externs)
        yield "</tbody></table></div>"
    else:
        yield '<p class="dim">no externs</p>'
    yield from _fields(found.kptrs)


def _fields(kptrs: Kptrs) -> Iterator[str]:
    maps = [found for found in kptrs.all_maps if found.fields or found.ignored]
    if not maps:
        return
    yield '<div class="scroll"><table><thead><tr><th>map</th><th>offset</th>'
    yield "<th>field</th><th>path</th><th>target, or why it is ignored</th></tr>"
    yield "</thead><tbody>"
    for found in maps:
        for field in found.fields:
            yield _field_row(found, field)
        for pointer in found.ignored:
            yield (
                f"<tr><td>{_text(found.map.name)}</td><td></td>"
                f'<td class="warn">ignored</td><td>{_text(pointer.path)}</td>'
                f"<td>{_text(pointer.reason)}</td></tr>"
            )
    yield "</tbody></table></div>"


def _field_row(found: MapFields, field: MapField) -> str:
    style = "bad" if found.map_create else "ok"
    target = str(field.target) if field.target else ""
    return (
        f"<tr><td>{_text(found.map.name)}</td><td>{field.offset}</td>"
        f'<td class="{style}">{field.kind}</td><td>{_text(field.path)}</td>'
        f"<td>{_text(target)}</td></tr>"
    )


def _row(found: ResolvedExtern) -> str:
    style = {"resolved": "ok", "unresolved": "dim", "error": "bad"}[found.status]
    kind = f"weak {found.extern.kind}" if found.extern.is_weak else found.extern.kind
    value = "" if found.address is None else f"{found.address:#x}"
    if found.btf is not None:
        value = f"{found.btf} [{found.btf_id}]"
    return (
        f"<tr><td>{_text(found.extern.name)}</td><td>{kind}</td>"
        f'<td class="{style}">{found.status}</td><td>{_text(value)}</td></tr>'
    )


# Names are bytes to the kernel: what is not UTF-8 is shown, not written.
def _text(text: str) -> str:
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
