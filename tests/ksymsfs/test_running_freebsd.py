"""FreeBSD's running kernel, from what a real one answered to kldstat and kldsym."""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ksymsfs.errors import SnapshotError, SourceChangingError, SourceError
from ksymsfs.generation import take_snapshot
from ksymsfs.image import build_image
from ksymsfs.sources.kld import FileStat, KldStat, SymLookup, SystemCalls
from ksymsfs.sources.objectfile import read_object
from ksymsfs.sources.running_freebsd import RunningFreeBSD
from tests.elf_writer import ALLOC, EXEC, PROGBITS, Sec, Sym, write_recorded
from tests.kld import build_kld
from tests.ksymsfs.test_freebsd_files import (
    STATE_1,
    STATE_2,
    kernel_elf,
    module_elf,
    progbits,
)

KERNEL = KldStat(1, "kernel", 0xFFFFFFFF80200000, 0xA00000, "kernel")
KSYMS = KldStat(2, "ksyms.ko", 0xFFFFFFFF80F18000, 0x2248, "/boot/kernel/ksyms.ko")
FUSEFS = KldStat(3, "fusefs.ko", 0xFFFFFFFF80F1B000, 0x11CD8, "/boot/kernel/fusefs.ko")


@dataclass
class Recorded:
    """A kernel linker that answers what was recorded, or written for a test."""

    files: list[KldStat]
    symbols: dict[tuple[int, bytes], int] = field(default_factory=dict)
    sysctls: dict[str, bytes] = field(
        default_factory=lambda: {
            "kern.bootfile": b"/boot/kernel/kernel\0",
            "kern.module_path": b"/boot/modules;/boot/kernel\0",
        }
    )
    walks: int = 0

    def next(self, id_: int) -> int:
        if id_ == 0:
            self.walks += 1
        ids = [0, *(f.id for f in self.files), 0]
        return ids[ids.index(id_) + 1]

    def stat(self, id_: int) -> KldStat:
        for file in self.files:
            if file.id == id_:
                return file
        raise FileNotFoundError(2, os.strerror(2))

    def symbol(self, id_: int, name: bytes) -> int | None:
        return self.symbols.get((id_, name))

    def sysctl(self, name: str) -> bytes:
        return self.sysctls.get(name, b"")


@pytest.fixture(scope="module")
def root(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root directory of the machine that was recorded."""
    folder = tmp_path_factory.mktemp("root")
    boot = folder / "boot/kernel"
    boot.mkdir(parents=True)
    for name in ("kernel", "ksyms.ko", "fusefs.ko"):
        write_recorded(data / "freebsd-13.2" / name, boot / name)
    return folder


@pytest.mark.parametrize(
    ("files", "digest"),
    [
        pytest.param([KERNEL, KSYMS], STATE_1, id="ksyms loaded"),
        pytest.param([KERNEL, KSYMS, FUSEFS], STATE_2, id="fusefs loaded"),
    ],
)
def test_the_image_is_the_one_that_the_device_served(
    root: Path, files: list[KldStat], digest: str
) -> None:
    source = RunningFreeBSD(Recorded(files), root=root)

    _, linker_files = take_snapshot(source)

    image = build_image(linker_files, source.format)
    assert hashlib.sha256(image).hexdigest() == digest


def test_linker_files_are_those_of_kldstat(root: Path) -> None:
    source = RunningFreeBSD(Recorded([KERNEL, KSYMS, FUSEFS]), root=root)

    found = [(f.name, f.address, f.size) for f in source.linker_files()]

    assert found == [
        ("kernel", 0xFFFFFFFF80200000, 0xA00000),
        ("ksyms.ko", 0xFFFFFFFF80F18000, 0x2248),
        ("fusefs.ko", 0xFFFFFFFF80F1B000, 0x11CD8),
    ]


def test_what_comes_goes_or_moves_changes_the_fingerprint(root: Path) -> None:
    kld = Recorded([KERNEL, KSYMS])
    source = RunningFreeBSD(kld, root=root)
    prints = [source.fingerprint()]
    for files in (
        [KERNEL, KSYMS, FUSEFS],
        [KERNEL, KSYMS],
        # An id is given again: this one is back, elsewhere.
        [KERNEL, KSYMS, FUSEFS._replace(address=FUSEFS.address + 0x1000)],
    ):
        kld.files = files
        prints.append(source.fingerprint())

    assert prints[2] == prints[0]
    assert len(set(prints)) == 3


def test_a_linker_that_changes_all_the_time_gives_no_snapshot(root: Path) -> None:
    class Restless(Recorded):
        def next(self, id_: int) -> int:
            if id_ == 0:
                self.files = [KERNEL, KSYMS._replace(id=self.walks + 2)]
            return super().next(id_)

    kld = Restless([])

    with pytest.raises(SnapshotError) as caught:
        take_snapshot(RunningFreeBSD(kld, root=root))

    assert caught.value.attempts == 3
    assert kld.walks == 9


def test_a_module_that_goes_while_it_is_listed_is_a_change(root: Path) -> None:
    class Vanishing(Recorded):
        def stat(self, id_: int) -> KldStat:
            if id_ == 2:
                raise FileNotFoundError(2, "gone")
            return super().stat(id_)

    with pytest.raises(SourceChangingError, match="linker file 2 was unloaded"):
        RunningFreeBSD(Vanishing([KERNEL, KSYMS]), root=root).linker_files()


def test_a_file_that_is_not_the_loaded_one_is_named(root: Path) -> None:
    larger = KSYMS._replace(size=0x2268)
    with pytest.raises(SourceError, match="it is not the file that was loaded"):
        RunningFreeBSD(Recorded([KERNEL, larger]), root=root).linker_files()

    gone = KSYMS._replace(pathname="/boot/kernel/none.ko")
    with pytest.raises(SourceError, match=r"none\.ko: No such file or directory"):
        RunningFreeBSD(Recorded([KERNEL, gone]), root=root).linker_files()


def test_a_path_without_folder_is_found_along_the_module_path(root: Path) -> None:
    bare = KSYMS._replace(pathname="ksyms.ko")

    _, ksyms = RunningFreeBSD(Recorded([KERNEL, bare]), root=root).linker_files()

    assert len(ksyms.symtab) == 77


def test_a_file_that_the_loader_unpacked_is_found_packed(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "boot/kernel").mkdir(parents=True)
    for name in ("kernel", "ksyms.ko"):
        plain = (root / "boot/kernel" / name).read_bytes()
        (tmp_path / f"boot/kernel/{name}.gz").write_bytes(gzip.compress(plain, 1))

    source = RunningFreeBSD(Recorded([KERNEL, KSYMS]), root=tmp_path)
    _, files = take_snapshot(source)

    assert hashlib.sha256(build_image(files, source.format)).hexdigest() == STATE_1


def test_a_relative_path_says_how_to_load_the_module_instead(root: Path) -> None:
    relative = KSYMS._replace(pathname="./ksyms.ko")

    with pytest.raises(SourceError, match=r"^\./ksyms\.ko: was loaded by a path that"):
        RunningFreeBSD(Recorded([KERNEL, relative]), root=root).linker_files()


def test_a_kernel_that_was_installed_and_not_booted_is_found_out(root: Path) -> None:
    moved = {
        (1, name): 0xFFFFFFFF80426700 for name in names(root / "boot/kernel/kernel")
    }

    with pytest.raises(SourceError, match=r"kernel: .* not the file that was loaded"):
        RunningFreeBSD(Recorded([KERNEL, KSYMS], moved), root=root).linker_files()


def test_a_module_without_global_symbols_is_found_out_too(root: Path) -> None:
    moved = {(2, name): 0xFFFFFFFF80F18000 for name in names(root / KSYMS.pathname[1:])}

    with pytest.raises(SourceError, match=r"ksyms\.ko: .* it is not the file"):
        RunningFreeBSD(Recorded([KERNEL, KSYMS], moved), root=root).linker_files()


def test_static_functions_of_one_name_are_no_other_file(root: Path) -> None:
    # As link_elf_lookup_debug_symbol does, where no symbol is in .dynsym.
    first: dict[tuple[int, bytes], int] = {}
    kernel = read_object(root / "boot/kernel/kernel")
    for symbol in kernel.symtab[kernel.symtab["st_shndx"] != 0]:
        name = kernel.name_at(symbol["st_name"])
        first.setdefault((1, name), int(symbol["st_value"]))
    assert len(first) < len(kernel.symtab) - 100

    RunningFreeBSD(Recorded([KERNEL, KSYMS], first), root=root).linker_files()


def names(path: Path) -> list[bytes]:
    """The names of the symbols of an ELF file."""
    file = read_object(path)
    return [file.name_at(offset) for offset in file.symtab["st_name"].tolist()]


BASE = 0xFFFFFFFF81000000


def written(folder: Path, symbols: dict[bytes, int]) -> dict[str, int]:
    """The values of a written module's symbols, with what kldsym answers."""
    vnet = Sec("set_vnet", PROGBITS, ALLOC, 0xFFFFFFFF80202000, 0x10)
    kernel_elf(extra=[vnet]).write(folder / "kernel")
    module_elf(
        [
            Sec(".text", PROGBITS, ALLOC | EXEC, size=0x100, addralign=16),
            progbits("set_pcpu", 0x20),
            progbits("set_vnet", 0x20),
        ],
        [
            Sym("entry", 0x10, shndx=1),
            Sym("fast", 0x20, info=0x1A, shndx=1),
            Sym("local_fast", 0x30, info=0x0A, shndx=1),
            Sym("pcpu_local", 0, info=0x01, shndx=2),
            Sym("pcpu_counter", 8, info=0x11, shndx=2),
            Sym("vnet_state", 4, info=0x11, shndx=3),
            Sym("__start_set_pcpu", info=0x10, shndx=0),
        ],
    ).write(folder / "m.ko")
    stat = KldStat(2, "m.ko", BASE, 0x140, str(folder / "m.ko"))
    kld = Recorded(
        [KERNEL._replace(pathname=str(folder / "kernel")), stat],
        {(2, name): value for name, value in symbols.items()},
    )
    _, module = RunningFreeBSD(kld).linker_files()
    return {
        module.name_at(name).decode(): value
        for name, value in np.stack(
            [module.symtab["st_name"], module.symtab["st_value"]], axis=1
        ).tolist()
    }


def test_kldsym_tells_what_only_the_kernel_knows(tmp_path: Path) -> None:
    values = written(
        tmp_path,
        {
            b"entry": BASE + 0x10,
            b"fast": 0xFFFFFFFF80212340,
            b"pcpu_counter": 0xFFFFFE0000001008,
            b"vnet_state": 0xFFFFFE0000002004,
        },
    )

    assert values["fast"] == 0xFFFFFFFF80212340
    assert values["pcpu_counter"] == 0xFFFFFE0000001008
    # Another lies next to it, and the set begins there.
    assert values["pcpu_local"] == 0xFFFFFE0000001000
    assert values["__start_set_pcpu"] == 0xFFFFFE0000001000
    assert values["vnet_state"] == 0xFFFFFE0000002004


def test_a_static_variable_tells_where_its_section_is(tmp_path: Path) -> None:
    # VNET_DEFINE_STATIC; and objcopy makes what a module does not export local.
    values = written(tmp_path, {b"pcpu_local": 0xFFFFFE0000001000})

    assert values["pcpu_counter"] == 0xFFFFFE0000001008
    assert values["vnet_state"] == 4


def test_nonsense_from_kldsym_is_no_crash(tmp_path: Path) -> None:
    values = written(tmp_path, {b"pcpu_counter": 0, b"vnet_state": 2**64 - 1})

    assert values["pcpu_counter"] == 0


def test_what_kldsym_does_not_know_stays_as_the_file_has_it(tmp_path: Path) -> None:
    values = written(tmp_path, {})

    assert values["fast"] == BASE + 0x20
    assert values["local_fast"] == BASE + 0x30
    assert values["pcpu_counter"] == 8
    assert values["__start_set_pcpu"] == 0


def test_a_file_of_equal_size_with_other_symbols_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="entry would be at"):
        written(tmp_path, {b"entry": BASE + 0x18})


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_long) != 8, reason="layouts of LP64")
def test_the_structures_are_laid_out_as_linker_h_has_them() -> None:
    stat = {name: getattr(FileStat, name).offset for name, _ in FileStat._fields_}
    lookup = {name: getattr(SymLookup, name).offset for name, _ in SymLookup._fields_}

    assert ctypes.sizeof(FileStat) == 2080
    assert stat == {
        "version": 0,
        "name": 4,
        "refs": 1028,
        "id": 1032,
        "address": 1040,
        "size": 1048,
        "pathname": 1056,
    }
    assert FileStat.name.size == FileStat.pathname.size == 1024
    assert ctypes.sizeof(SymLookup) == 32
    assert lookup == {"version": 0, "symname": 8, "symvalue": 16, "symsize": 24}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> SystemCalls:
    """The system calls of a C library with FreeBSD's structures."""
    library = build_kld(tmp_path_factory.mktemp("kld"))
    return SystemCalls(str(library))


def test_the_calls_pass_the_structures_that_c_has(calls: SystemCalls) -> None:
    assert [calls.next(0), calls.next(1), calls.next(2)] == [1, 2, 0]
    assert calls.stat(1) == KERNEL
    assert calls.stat(2) == KSYMS
    assert calls.symbol(1, b"panic") == 0xFFFFFFFF80426700
    assert calls.symbol(1, b"nothing") is None
    assert calls.sysctl("kern.bootfile") == b"/boot/kernel/kernel\0"
    assert calls.sysctl("kern.nothing") == b""
    with pytest.raises(FileNotFoundError):
        calls.stat(7)


def test_a_kernel_behind_the_real_calls_gives_the_image(
    calls: SystemCalls, root: Path
) -> None:
    source = RunningFreeBSD(calls, root=root)

    _, files = take_snapshot(source)

    image = build_image(files, source.format)
    assert hashlib.sha256(image).hexdigest() == STATE_1
