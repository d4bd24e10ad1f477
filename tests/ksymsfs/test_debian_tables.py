"""Modules of real kernels, from recorded tables: sizes, parts and pseudo modules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from ksymsfs.elf import ElfFormat
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import parse_modules

RELEASES = ("5.10", "6.1", "6.12")
PAGE = 4096


class Sym(NamedTuple):
    """A symbol of a linker file."""

    name: str
    address: int
    size: int
    section: int


def linker_files(data: Path, release: str) -> list[LinkerFile]:
    folder = data / "debian" / release
    return kallsyms_linker_files(
        (folder / "kallsyms.txt").read_bytes(),
        parse_modules((folder / "modules.txt").read_bytes()),
        ElfFormat(),
    )


def symbols(file: LinkerFile) -> list[Sym]:
    names = file.strtab
    # Behind the null symbol and the linker-file symbol.
    return [
        Sym(
            names[s["st_name"] : names.index(b"\0", int(s["st_name"]))].decode(),
            *(int(s[field]) for field in ("st_value", "st_size", "st_shndx")),
        )
        for s in file.symtab[2:]
    ]


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_a_module_function_has_the_size_that_the_kernel_computes(
    data: Path, release: str
) -> None:
    ours: dict[int, str] = {}
    for file in linker_files(data, release)[1:]:
        for s in symbols(file):
            # The first of several names, as the kernel's.
            ours.setdefault(s.address, f"{s.name}+0x0/{s.size:#x} [{file.name}]")

    recorded = (data / "debian" / release / "sprint.txt").read_text()
    kernels = {
        int(address, 16): said
        for address, said in re.findall(r"^(0x\w+) (.*)$", recorded, re.MULTILINE)
        # It knows no name for the pages of ftrace and kprobes.
        if not said.startswith("0x")
    }

    assert len(kernels) > 40
    assert {a: ours[a] for a in kernels} == kernels


@pytest.mark.parametrize("release", RELEASES)
def test_no_symbol_reaches_into_another_part_of_its_module(
    data: Path, release: str
) -> None:
    for file in linker_files(data, release)[1:]:
        known = symbols(file)
        for s in known:
            inside = [
                other
                for other in known
                if s.address < other.address < s.address + s.size
            ]
            assert inside == [], s
            if s.section == 1:
                data_pages = {o.address // PAGE for o in known if o.section != 1}
                assert (s.address + s.size - 1) // PAGE not in data_pages, s


def test_unmapped_pages_between_the_parts_of_a_module_belong_to_no_symbol(
    data: Path,
) -> None:
    dummy = next(f for f in linker_files(data, "6.12") if f.name == "dummy")
    covered = {
        page
        for s in symbols(dummy)
        for page in range(s.address // PAGE, -(-(s.address + s.size) // PAGE))
    }

    # Text, data and read-only data: one page each, every second one unmapped.
    first = dummy.address // PAGE
    assert sorted(page - first for page in covered) == [0, 2, 4]
    assert dummy.size == 3 * PAGE


@pytest.mark.parametrize("release", RELEASES)
def test_modules_stand_in_load_order_and_pages_of_ftrace_and_kprobes_come_last(
    data: Path, release: str
) -> None:
    names = [file.name for file in linker_files(data, release)]

    assert names == [
        *("kernel", "crc16", "dummy", "ip_vti", "llc", "nf_dup_netdev", "stp"),
        *("__builtin__ftrace", "__builtin__kprobes"),
    ]


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_a_per_cpu_variable_of_a_module_covers_no_address(
    data: Path, release: str
) -> None:
    module = next(f for f in linker_files(data, release) if f.name == "nf_dup_netdev")
    (variable,) = [s for s in symbols(module) if s.name == "nf_dup_skb_recursion"]

    assert variable.address < 0x100000
    assert variable.size == 0
