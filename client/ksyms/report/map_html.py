"""The memory map as a page: the picture, and a table of all linker files."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ksyms.memory_map import KINDS, MemoryMap
from ksyms.report.map_svg import map_svg, size_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 1240px;
  color: #222; background: #fff; padding: 0 1rem; }
svg { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
code { font: 13px ui-monospace, monospace; }
"""


def map_html(memory: MemoryMap, title: str) -> str:
    """The page: HTML 5, UTF-8, no script, nothing loaded from elsewhere."""
    return "\n".join(_page(memory, title)) + "\n"


def _page(memory: MemoryMap, title: str) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{_text(title)}</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield map_svg(memory, title)
    yield '<div class="scroll"><table><thead><tr><th scope="col">linker file</th>'
    for head in ("address", "in memory", "symbols", *KINDS):
        yield f'<th scope="col">{head}</th>'
    yield "</tr></thead><tbody>"
    digits = memory.bits // 4
    for file in memory.files:
        where = f"<code>{file.address:0{digits}x}</code>" if file.size else ""
        yield f'<tr><th scope="row">{_text(file.name)}</th><td>{where}</td>'
        yield f"<td>{size_text(file.size) if file.size else ''}</td>"
        yield f"<td>{file.symbols:,}</td>"
        for kind in KINDS:
            size = file.sizes[kind]
            yield f"<td>{size_text(size) if size else ''}</td>"
        yield "</tr>"
    yield "</tbody></table></div></body></html>"


def _text(words: str) -> str:
    return escape("".join(c if c.isprintable() else "?" for c in words))
