"""ksyms map: what lies where, as a table, JSON and pictures."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms.cli import main
from ksyms.elf import SHN_ABS
from ksyms.image import Image
from ksyms.memory_map import KINDS, FileSizes, MemoryMap, Part, memory_map
from ksyms.report.map_html import map_html
from ksyms.report.map_svg import _Box as Box
from ksyms.report.map_svg import map_svg, size_text, squarify
from tests.elf_writer import Sym
from tests.ksyms.images import FORMATS, bare_elf, kernel_image

Captured = pytest.CaptureFixture[str]
SVG = "{http://www.w3.org/2000/svg}"

KALLSYMS = b"""\
ffffffff81000000 T _text
ffffffff81000100 t code
ffffffff81001000 R constant
ffffffff81001800 D variable
ffffffff81002000 b zeros
ffffffff81003000 B _end
ffffffffc0001000 t fn\t[mod]
ffffffffc0002000 d object\t[mod]
"""


@pytest.fixture
def memory() -> MemoryMap:
    return memory_map(Image(kernel_image(kallsyms=KALLSYMS, modules=None)))


def test_parts_are_stretches_of_one_kind_and_linker_file(memory: MemoryMap) -> None:
    found = [(p.file, p.kind, p.start, p.end, p.symbols) for p in memory.parts]

    assert found == [
        ("kernel", "text", 0xFFFFFFFF81000000, 0xFFFFFFFF81001000, 2),
        ("kernel", "rodata", 0xFFFFFFFF81001000, 0xFFFFFFFF81001800, 1),
        ("kernel", "data", 0xFFFFFFFF81001800, 0xFFFFFFFF81002000, 1),
        ("kernel", "bss", 0xFFFFFFFF81002000, 0xFFFFFFFF81003000, 1),
        ("mod", "text", 0xFFFFFFFFC0001000, 0xFFFFFFFFC0002000, 1),
        ("mod", "data", 0xFFFFFFFFC0002000, 0xFFFFFFFFC0003000, 1),
    ]


def test_sizes_are_what_symbols_cover(memory: MemoryMap) -> None:
    kernel, mod = memory.files

    assert kernel.sizes == {
        "text": 0x1000, "rodata": 0x800, "data": 0x800, "bss": 0x1000, "other": 0,
    }  # fmt: skip
    assert (kernel.symbols, mod.symbols, mod.covered) == (6, 2, 0x2000)


@pytest.mark.parametrize("name", FORMATS)
def test_every_class_and_byte_order_has_the_same_map(name: str) -> None:
    expected = memory_map(Image(kernel_image()))

    found = memory_map(Image(kernel_image(FORMATS[name])))

    assert (found.files, found.parts) == (expected.files, expected.parts)


def test_numbers_among_the_symbols_are_no_memory() -> None:
    image = Image(bare_elf([Sym("fn", 0x1000, 16), Sym("number", 5, shndx=0xFFF1)]))

    (part,) = memory_map(image).parts

    assert (part.start, part.end) == (0x1000, 0x1010)


def test_an_image_without_symbols_has_an_empty_map() -> None:
    memory = memory_map(Image(bare_elf([])))

    assert memory.parts == ()
    assert ElementTree.fromstring(map_svg(memory, "nothing")).tag == f"{SVG}svg"


def test_an_image_of_numbers_alone_has_no_parts() -> None:
    memory = memory_map(Image(bare_elf([Sym("number", 16, shndx=SHN_ABS)])))

    assert memory.parts == ()
    assert [file.symbols for file in memory.files] == [1]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=40),
    width=st.floats(10, 2000),
    height=st.floats(10, 2000),
)
def test_the_boxes_of_a_treemap_fill_their_area_by_size(
    sizes: list[int], width: float, height: float
) -> None:
    boxes = squarify(sizes, Box(3, 5, width, height))

    scale = width * height / sum(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size * scale, rel=1e-6)
        assert box.x >= 3 - 1e-6
        assert box.y >= 5 - 1e-6
        assert box.x + box.width <= 3 + width * (1 + 1e-6)
        assert box.y + box.height <= 5 + height * (1 + 1e-6)


def test_the_boxes_of_a_treemap_do_not_overlap() -> None:
    boxes = squarify([50, 30, 30, 10, 5, 5, 1], Box(0, 0, 100, 60))

    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert min(across, down) < 1e-6


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (4 << 20, "4.0 MiB"),
     (300 << 20, "300 MiB"), (5 << 40, "5120 GiB")],
)  # fmt: skip
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_picture_is_svg_with_a_box_for_each_part(memory: MemoryMap) -> None:
    root = ElementTree.fromstring(map_svg(memory, "A kernel"))

    tips = [t.text or "" for t in root.iter(f"{SVG}title")]
    for part in memory.parts:
        assert any(t.startswith(f"{part.file}: {part.kind}, ") for t in tips)
        assert f"{part.file}: {part.kind} {size_text(part.end - part.start)}" in tips
    width, height = (float(root.attrib[a]) for a in ("width", "height"))
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(a, 0)) for a in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width + 1
        assert 0 <= y <= y + h <= height + 1


def test_names_that_no_page_can_hold_are_made_harmless() -> None:
    name = '<script>&"\x00\udcff\n'
    memory = MemoryMap(
        64,
        (FileSizes(name, 0x1000, 0x1000, 1, dict.fromkeys(KINDS, 4096)),),
        (Part(name, "text", 0x1000, 0x2000, 0x1000, 1),),
    )

    for page in (map_svg(memory, name), map_html(memory, name)):
        assert "<script>" not in page
        assert page.encode()
    ElementTree.fromstring(map_svg(memory, name))


def test_a_table_with_a_million_holes_stays_a_picture() -> None:
    parts = tuple(
        Part("kernel", KINDS[i % 2], 0x1000000 + 64 * i, 0x1000020 + 64 * i, 32, 1)
        for i in range(200_000)
    )
    files = (FileSizes("kernel", 0, 0, 1, dict.fromkeys(KINDS, 1)),)

    picture = map_svg(MemoryMap(64, files, parts), "holes")

    assert len(picture) < 8_000_000
    assert picture.count("kernel: text") > 1000


def test_regions_and_empty_rows_are_left_out() -> None:
    starts = [0x1000, 0xA00000, *(i << 40 for i in range(1, 31))]
    parts = tuple(Part("kernel", "text", s, s + 0x1000, 0x1000, 1) for s in starts)
    files = (FileSizes("kernel", 0, 0, 1, dict.fromkeys(KINDS, 1)),)

    picture = map_svg(MemoryMap(64, files, parts), "far apart")

    assert "rows without symbols" in picture
    assert "smaller regions" in picture


# -- the command


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "ksyms"
    path.write_bytes(kernel_image(kallsyms=KALLSYMS, modules=None))
    return str(path)


def test_map_prints_a_table(image: str, capsys: Captured) -> None:
    assert main(["-k", image, "map"]) == 0

    head, kernel, mod = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "address", "size", "symbols", *KINDS]
    assert kernel.split()[:6] == [
        "kernel", "ffffffff81000000", "12288", "6", "4096", "2048",
    ]  # fmt: skip
    assert mod.split()[0] == "mod"


def test_map_as_json(image: str, capsys: Captured) -> None:
    assert main(["-k", image, "map", "-j"]) == 0

    _, mod = json.loads(capsys.readouterr().out)
    assert mod["data"] == 0x1000
    assert mod["parts"][0] == {
        "kind": "text",
        "start": "0xffffffffc0001000",
        "end": "0xffffffffc0002000",
        "symbols": 1,
    }


def test_a_picture_can_be_had_beside_the_json(
    image: str, tmp_path: Path, capsys: Captured
) -> None:
    svg = tmp_path / "map.svg"

    assert main(["-k", image, "map", "-j", "-o", str(svg)]) == 0

    assert [file["name"] for file in json.loads(capsys.readouterr().out)][1] == "mod"
    assert ElementTree.parse(svg).getroot().tag == f"{SVG}svg"


def test_map_writes_pictures(image: str, tmp_path: Path, capsys: Captured) -> None:
    svg, html = tmp_path / "map.svg", tmp_path / "map.html"

    assert main(["-k", image, "map", "-o", str(svg)]) == 0
    assert main(["-k", image, "map", "-o", str(html)]) == 0
    assert capsys.readouterr().out == ""

    assert ElementTree.parse(svg).getroot().tag == f"{SVG}svg"
    cells: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            cells.append(data)

    Reader().feed(html.read_text())
    assert {"mod", "4.0 KiB", "ffffffffc0001000"} <= set(cells)
    assert "http://www.w3.org/2000/svg" in html.read_text()
    assert "<script" not in html.read_text()


def test_map_of_another_kind_of_picture_is_refused(
    image: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["-k", image, "map", "-o", str(tmp_path / "map.png")]) == 2
    assert "*.svg or *.html" in capsys.readouterr().err


def test_map_into_a_folder_that_is_not_there_exits_2(
    image: str, capsys: Captured
) -> None:
    assert main(["-k", image, "map", "-o", "/nonexistent/map.svg"]) == 2
    assert "/nonexistent/map.svg: No such file" in capsys.readouterr().err
