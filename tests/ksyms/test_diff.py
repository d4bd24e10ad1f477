"""ksyms diff: what came, went, moved and changed its size, by linker file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ksyms.cli import main
from ksyms.diff import FileDiff, diff_images
from ksyms.image import Image
from tests.elf_writer import Sym
from tests.ksyms.images import FORMATS, KALLSYMS, bare_elf, kernel_image

Captured = pytest.CaptureFixture[str]

OLD = b"""\
0000000000000100 A per_cpu
ffffffff81000000 T _text
ffffffff81000010 t first
ffffffff81000020 t twin
ffffffff81000030 t twin
ffffffff81000040 t going
ffffffff81000050 t growing
ffffffff81000060 t after
ffffffff81001000 D _end
ffffffffc0001000 t stays_fn\t[stays]
ffffffffc0002000 t gone_fn\t[gone]
"""
# As a whole 0x1000000 higher: KASLR. going went, growing grew by 8 and moved what is
# behind, coming came; one of the twins went.
NEW = b"""\
0000000000000100 A per_cpu
ffffffff82000000 T _text
ffffffff82000010 t first
ffffffff82000030 t twin
ffffffff82000040 T coming
ffffffff82000050 t growing
ffffffff82000068 t after
ffffffff82001000 D _end
ffffffffc0101000 t stays_fn\t[stays]
ffffffffc0003000 t fresh_fn\t[fresh]
"""


def diff(old: bytes, new: bytes) -> dict[str, FileDiff]:
    images = (Image(kernel_image(kallsyms=k, modules=None)) for k in (old, new))
    return {d.name: d for d in diff_images(*images)}


def test_an_image_does_not_differ_from_itself() -> None:
    for fmt in FORMATS.values():
        data = kernel_image(fmt)
        assert diff_images(Image(data), Image(data)) == []


def test_symbols_are_compared_within_their_linker_file() -> None:
    found = diff(OLD, NEW)

    assert sorted(found) == ["fresh", "gone", "kernel", "stays"]
    kernel = found["kernel"]
    assert kernel.shift == 0x1000000
    assert [e.name for e in kernel.added] == ["coming"]
    assert [(e.name, e.address) for e in kernel.removed] == [
        ("twin", 0xFFFFFFFF81000020),
        ("going", 0xFFFFFFFF81000040),
    ]
    assert [(a.name, a.address, b.address) for a, b in kernel.moved] == [
        ("after", 0xFFFFFFFF81000060, 0xFFFFFFFF82000068)
    ]
    assert [(a.name, a.size, b.size) for a, b in kernel.resized] == [
        ("first", 0x10, 0x20),
        ("growing", 0x10, 0x18),
        ("after", 0xFA0, 0xF98),
    ]
    assert kernel.symbols == (9, 8)


def test_modules_come_go_and_move_as_a_whole() -> None:
    found = diff(OLD, NEW)

    assert (found["stays"].shift, found["stays"].moved) == (0x100000, ())
    assert found["gone"].new is None
    assert found["fresh"].old is None
    assert found["fresh"].symbols == (0, 1)


def test_bpf_programs_move_one_by_one() -> None:
    first = KALLSYMS + b"80004000 t bpf_prog_c\t[bpf]\n"
    second = KALLSYMS.replace(b"80001800 t bpf_prog_a", b"80000800 t bpf_prog_a")

    (bpf,) = diff(first, second).values()

    assert bpf.shift == 0
    assert [a.name for a, _ in bpf.moved] == ["bpf_prog_a_first"]
    assert [e.name for e in bpf.removed] == ["bpf_prog_c"]


def test_files_of_others_are_one_linker_file() -> None:
    old = bare_elf(
        [Sym("a", 0x1000, 8), Sym("b", 0x2000, 8), Sym("undefined", shndx=0)]
    )
    new = bare_elf([Sym("a", 0x1000, 8), Sym("b", 0x3000, 8)])

    (found,) = diff_images(Image(old), Image(new))

    assert [(a.name, a.address, b.address) for a, b in found.moved] == [
        ("b", 0x2000, 0x3000)
    ]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kallsyms").write_bytes(OLD)
    (tmp_path / "new").write_bytes(kernel_image(kallsyms=NEW, modules=None))
    return str(tmp_path / "old"), str(tmp_path / "new")


def test_diff_prints_a_line_for_each_change(
    files: tuple[str, str], capsys: Captured
) -> None:
    assert main(["diff", *files]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[:8] == [
        "kernel: 1 added, 2 removed, 1 moved, 3 resized, all of it by +0x1000000",
        "- ffffffff81000020 0000000000000010 t twin",
        "- ffffffff81000040 0000000000000010 t going",
        "+ ffffffff82000040 0000000000000010 T coming",
        "> ffffffff81000060 ffffffff82000068 t after",
        "~ 0000000000000010 0000000000000020 t first",
        "~ 0000000000000010 0000000000000018 t growing",
        "~ 0000000000000fa0 0000000000000f98 t after",
    ]
    assert sorted(lines[8:]) == [
        "fresh: added, with 1 symbols",
        "gone: removed, with 1 symbols",
        "stays: all of it by +0x100000",
    ]


def test_diff_summary_has_a_line_for_each_linker_file(
    files: tuple[str, str], capsys: Captured
) -> None:
    assert main(["diff", "--summary", *files]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_diff_of_what_is_the_same_exits_0(
    files: tuple[str, str], capsys: Captured
) -> None:
    assert main(["diff", files[1], files[1]]) == 0
    assert capsys.readouterr().out == ""


def test_diff_as_json(files: tuple[str, str], capsys: Captured) -> None:
    assert main(["diff", "--json", *files]) == 1

    kernel, *others = json.loads(capsys.readouterr().out)
    assert kernel["status"] == "common"
    assert kernel["shift"] == 0x1000000
    assert kernel["symbols"] == [9, 8]
    assert kernel["added"] == [
        {"name": "coming", "address": "0xffffffff82000040", "size": 16, "type": "T"}
    ]
    assert kernel["moved"] == [
        {
            "name": "after",
            "type": "t",
            "old_address": "0xffffffff81000060",
            "new_address": "0xffffffff82000068",
        }
    ]
    assert kernel["resized"][1] == {
        "name": "growing", "type": "t", "old_size": 16, "new_size": 24,
    }  # fmt: skip
    assert sorted((o["name"], o["status"]) for o in others) == [
        ("fresh", "added"),
        ("gone", "removed"),
        ("stays", "common"),
    ]


def test_diff_of_what_is_no_image_exits_2(
    files: tuple[str, str], capsys: Captured
) -> None:
    assert main(["diff", files[0], __file__]) == 2
    assert "not an ELF file" in capsys.readouterr().err
