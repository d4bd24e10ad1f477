"""README's table of what the other flavors differ in: every row is tried."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ksymsfs.mkksyms import main as mkksyms
from tests.integration.server import ROOT, Server, serving

EXAMPLE = ROOT / "ksymsfs/examples/linux.toml"
FLAVORS = ["netbsd", "illumos"]


def rows() -> list[str]:
    table = (ROOT / "README.md").read_text().split("| | NetBSD | illumos | here |")[1]
    table = table.split("\n\n")[0]
    return re.findall(r"^\| ([^|-][^|]*) \|", table, re.MULTILINE)


def elf(server: Server) -> ELFFile:
    return ELFFile(BytesIO(server.device.read_bytes()))


def writing_fails_at_open(server: Server, flavor: str) -> None:
    with pytest.raises(OSError) as caught:
        os.open(server.device, os.O_RDWR)

    assert caught.value.errno == {"netbsd": errno.EROFS, "illumos": errno.ENXIO}[flavor]


def nothing_is_read_past_the_end(server: Server, flavor: str) -> None:
    with server.device.open("rb") as device:
        size = os.fstat(device.fileno()).st_size
        assert os.pread(device.fileno(), 16, size - 1) != b""
        assert os.pread(device.fileno(), 16, size) == b""
        assert os.pread(device.fileno(), 16, size + 1) == b""


def header_fields_are_0(server: Server, flavor: str) -> None:
    header = elf(server).header

    assert (header.e_entry, header.e_flags) == (0, 0)


def there_are_no_types(server: Server, flavor: str) -> None:
    section = elf(server).get_section_by_name(".SUNW_ctf")

    assert (section is not None) == (flavor == "netbsd")
    assert section is None or section.header.sh_size == 0


def an_unload_is_never_held_up(server: Server, flavor: str) -> None:
    manifest = server.mountpoint.parent / "linux.toml"
    with server.device.open("rb") as before:
        text = manifest.read_text()
        manifest.write_text(text[: text.rindex("[[module]]")])
        assert b"numdummies" not in server.device.read_bytes()
        assert b"numdummies" in before.read()


CLAIMS: dict[str, Callable[[Server, str], None]] = {
    "opened for writing": writing_fails_at_open,
    "read past the end": nothing_is_read_past_the_end,
    "header fields of the booted kernel (e_entry, e_flags)": header_fields_are_0,
    "types (.SUNW_ctf)": there_are_no_types,
    "module unload while it is open": an_unload_is_never_held_up,
}
NEEDS_NO_MOUNT = ["more than 98304 symbols"]


def test_every_row_is_tried() -> None:
    assert sorted([*CLAIMS, *NEEDS_NO_MOUNT]) == sorted(rows())


@pytest.mark.fuse
@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("row", CLAIMS)
def test_the_row_is_true(row: str, flavor: str, tmp_path: Path) -> None:
    manifest = tmp_path / "linux.toml"
    manifest.write_text(EXAMPLE.read_text())

    with serving(tmp_path, ["--flavor", flavor, "--manifest", str(manifest)]) as server:
        CLAIMS[row](server, flavor)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_no_kernel_has_too_many_symbols(flavor: str, tmp_path: Path) -> None:
    lines = (f"{0xFFFFFFFF81000000 + i * 16:x} T s{i}\n" for i in range(98305))
    (tmp_path / "kallsyms").write_text("".join(lines))
    image = tmp_path / "image"

    options = ["--kallsyms", str(tmp_path / "kallsyms"), "--flavor", flavor]
    assert mkksyms([*options, "-o", str(image)]) == 0

    with image.open("rb") as file:
        symtab = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(symtab, SymbolTableSection)
        assert symtab.num_symbols() >= 98305
    assert b"\0s98304\0" in image.read_bytes()
