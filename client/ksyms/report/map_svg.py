"""The memory map as a picture: by address in rows, and by size as a treemap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from ksyms.memory_map import KINDS, FileSizes, MemoryMap, Part

WIDTH = 1200
_LEFT, _ROW, _GAP = 150, 18, 4
_TREEMAP_HEIGHT = 460
_MAX_ROWS, _MAX_REGIONS = 24, 12

# Farther apart, things are drawn as regions of their own.
_REGION_GAP = 16 << 20

# Paul Tol's "bright" scheme: told apart by colour-blind people too.
COLOURS = {
    "text": "#4477aa",
    "rodata": "#66ccee",
    "data": "#228833",
    "bss": "#ccbb44",
    "other": "#aa3377",
}
_UNNAMED = "#e4e4e4"
# Kinds whose colours want white letters.
_DARK = ("text", "data", "other")

_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #222; }
.title { font-size: 20px; font-weight: 600; }
.head { font-size: 15px; font-weight: 600; }
.dim { fill: #666; }
.address { font: 11px ui-monospace, monospace; fill: #555; text-anchor: end; }
.light { fill: #fff; }
.small { font-size: 10px; }
rect { shape-rendering: crispEdges; }"""


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def map_svg(memory: MemoryMap, title: str) -> str:
    """The picture: SVG 1.1, nothing loaded from elsewhere, tooltips on all boxes."""
    body, y = [*_header(memory, title)], 96.0
    for part in (_by_size(memory, y), _by_address(memory, y + _TREEMAP_HEIGHT + 60)):
        for element, below in part:
            body.append(element)
            y = max(y, below)
    height = y + 20
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg"'
            f' viewBox="0 0 {WIDTH} {height:.0f}"'
            f' width="{WIDTH}" height="{height:.0f}" role="img">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>',
            *body,
            "</svg>\n",
        ]
    )


def size_text(size: int) -> str:
    """A number of bytes for people: 43.2 MiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return (
        f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
    )


def _header(memory: MemoryMap, title: str) -> Iterator[str]:
    yield _label(20, 34, title, "title")
    modules = len(memory.files) - 1
    symbols = sum(f.symbols for f in memory.files)
    total = sum(f.covered for f in memory.files)
    yield _label(
        20, 56,
        f"{symbols:,} symbols name {size_text(total)} in {len(memory.files)} linker"
        f" file{'s' * (modules != 0)}",
        "dim",
    )  # fmt: skip
    x = 620.0
    for kind in (*KINDS, "no symbols"):
        size = sum(f.sizes.get(kind, 0) for f in memory.files)
        if kind in COLOURS and not size:
            continue
        colour = COLOURS.get(kind, _UNNAMED)
        yield f'<rect x="{x:.0f}" y="46" width="12" height="12" fill="{colour}"/>'
        words = f"{kind} {size_text(size)}" if size else kind
        yield _label(x + 17, 56, words)
        x += 26 + 6.6 * len(words)


# -- by size


def _by_size(memory: MemoryMap, top: float) -> Iterator[tuple[str, float]]:
    yield _label(20, top, "By size: linker files, and what is in them", "head"), top
    area = _Box(20, top + 12, WIDTH - 40, _TREEMAP_HEIGHT)
    files = sorted((f for f in memory.files if f.covered), key=lambda f: -f.covered)
    boxes = squarify([f.covered for f in files], area)
    for file, box in zip(files, boxes, strict=True):
        for element in _file_box(file, box):
            yield element, box.y + box.height


def _file_box(file: FileSizes, box: _Box) -> Iterator[str]:
    if box.width < 0.5 or box.height < 0.5:
        return
    kinds = sorted(filter(file.sizes.get, KINDS), key=lambda kind: -file.sizes[kind])
    inner = squarify([file.sizes[kind] for kind in kinds], box)
    for kind, part in zip(kinds, inner, strict=True):
        tip = f"{file.name}: {kind} {size_text(file.sizes[kind])}"
        yield _rect(part, COLOURS[kind], tip)
    yield (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}"'
        f' height="{box.height:.1f}" fill="none" stroke="#fff" stroke-width="2"/>'
    )
    # The box that the label stands on is that of the first, largest kind.
    dark = " light" if kinds[0] in _DARK else ""
    named = f"{file.name} {size_text(file.covered)}"
    if 7 * len(named) + 8 < box.width and box.height > 18:
        yield _label(box.x + 5, box.y + 15, named, dark.strip())
    elif box.width > 34 and box.height > 14:
        room = int((box.width - 4) / 6.2)
        name = file.name if len(file.name) <= room else f"{file.name[: room - 1]}…"
        yield _label(box.x + 3, box.y + 11, name, f"small{dark}")


def squarify(sizes: Sequence[int], area: _Box) -> list[_Box]:
    """Boxes of these sizes, largest first, that fill *area* and are nearly square.

    Bruls, Huizing, van Wijk: Squarified Treemaps (2000).
    """
    boxes: list[_Box] = []
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    left = area
    total = float(sum(sizes))
    at = 0
    while at < len(order) and total > 0:
        scale = left.width * left.height / total
        side = min(left.width, left.height) or 1e-9
        count, best = 0, float("inf")
        row = 0.0
        while at + count < len(order):
            largest, smallest = sizes[order[at]], sizes[order[at + count]]
            more = row + smallest
            thickness = more * scale / side
            worst = max(
                thickness / max(smallest * scale / max(thickness, 1e-9), 1e-9),
                (largest * scale / max(thickness, 1e-9)) / max(thickness, 1e-9),
            )
            if worst > best:
                break
            row, best, count = more, worst, count + 1
        thickness = row * scale / side
        offset = 0.0
        for i in order[at : at + count]:
            length = sizes[i] / row * side if row else 0.0
            boxes.append(
                _Box(left.x, left.y + offset, thickness, length)
                if left.width >= left.height
                else _Box(left.x + offset, left.y, length, thickness)
            )
            offset += length
        left = (
            _Box(left.x + thickness, left.y, left.width - thickness, left.height)
            if left.width >= left.height
            else _Box(left.x, left.y + thickness, left.width, left.height - thickness)
        )
        total -= row
        at += count
    placed = dict(zip(order, boxes, strict=False))
    return [placed.get(i, _Box(area.x, area.y, 0, 0)) for i in range(len(sizes))]


# -- by address


class _Region(NamedTuple):
    start: int
    end: int
    parts: list[Part]

    @property
    def row_bytes(self) -> int:
        """What one row shows: a power of two, so that rows begin at round addresses."""
        row = 1 << 12
        while -(-(self.end - self.start // row * row) // row) > _MAX_ROWS:
            row *= 2
        return row


def _regions(parts: Iterable[Part]) -> list[_Region]:
    regions: list[_Region] = []
    for part in parts:
        if regions and part.start - regions[-1].end < _REGION_GAP:
            last = regions[-1]
            last.parts.append(part)
            regions[-1] = last._replace(end=max(last.end, part.end))
        else:
            regions.append(_Region(part.start, part.end, [part]))
    return regions


def _by_address(memory: MemoryMap, top: float) -> Iterator[tuple[str, float]]:
    yield _label(20, top, "By address", "head"), top
    regions = _regions(memory.parts)
    largest = sorted(regions, key=lambda r: r.start - r.end)[:_MAX_REGIONS]
    y = top + 8
    for region in regions:
        if region not in largest:
            continue
        row = region.row_bytes
        y += 22
        size = size_text(region.end - region.start)
        digits = memory.bits // 4
        words = (
            f"{region.start:0{digits}x} to {region.end - 1:0{digits}x}: {size},"
            f" {size_text(row)} a row"
        )
        yield _label(_LEFT, y, words, "dim"), y
        y += 8
        for element, below in _rows(region, row, y, digits):
            yield element, below
            y = max(y, below)
    if len(regions) > len(largest):
        y += 22
        rest = len(regions) - len(largest)
        yield _label(_LEFT, y, f"and {rest} smaller regions", "dim"), y


def _rows(
    region: _Region, row: int, top: float, digits: int
) -> Iterator[tuple[str, float]]:
    width = WIDTH - _LEFT - 20
    pieces = list(_pieces(region.parts, row))
    tops: dict[int, float] = {}
    y, last = top, 0
    for start in sorted({start // row * row for _, start, _ in pieces}):
        if tops and start - row not in tops:
            missing = (start - last) // row - 1
            words = f"{missing} row{'s' * (missing > 1)} without symbols"
            yield _label(_LEFT, y + 9, words, "small dim"), y
            y += 14
        tops[start] = y
        last = start
        begin, stop = max(start, region.start), min(start + row, region.end)
        x = _LEFT + (begin - start) / row * width
        box = _Box(x, y, (stop - begin) / row * width, _ROW)
        yield _label(_LEFT - 8, y + 13, f"{start:0{digits}x}", "address"), y + _ROW
        yield _rect(box, _UNNAMED, "no symbols"), y + _ROW
        y += _ROW + _GAP
    named: set[Part] = set()
    for part, start, stop in pieces:
        first = start // row * row
        x = _LEFT + (start - first) / row * width
        box = _Box(x, tops[first], (stop - start) / row * width, _ROW)
        tip = (
            f"{part.file}: {part.kind}, {part.symbols:,} symbols\n"
            f"{part.start:0{digits}x} to {part.end - 1:0{digits}x},"
            f" {size_text(part.end - part.start)}"
        )
        yield _rect(box, COLOURS[part.kind], tip), box.y + _ROW
        if part not in named and 6 * len(part.file) + 6 < box.width:
            named.add(part)
            dark = " light" if part.kind in _DARK else ""
            yield _label(box.x + 3, box.y + 13, part.file, f"small{dark}"), box.y


def _pieces(parts: Sequence[Part], row: int) -> Iterator[tuple[Part, int, int]]:
    # The parts, cut where a row ends. Of those narrower than a pixel there is one a
    # pixel at most, so that a table of a million holes stays a picture.
    pixel, last = row // WIDTH, -row
    for part in parts:
        start = part.start
        while start < part.end:
            stop = min(part.end, (start // row + 1) * row)
            if stop - start > pixel or start - last >= pixel:
                yield part, start, stop
                last = start
            start = stop


# -- SVG


def _rect(box: _Box, colour: str, tip: str) -> str:
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{max(box.width, 0.7):.1f}"'
        f' height="{max(box.height, 0.7):.1f}" fill="{colour}">'
        f"<title>{_text(tip)}</title></rect>"
    )


def _label(x: float, y: float, words: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{_text(words)}</text>'


def _text(words: str) -> str:
    # What XML cannot hold (control characters, bytes that are not UTF-8) is a "?".
    return escape(
        "".join(c if c.isprintable() or c == "\n" else "?" for c in words), quote=True
    )
