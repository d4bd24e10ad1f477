"""FreeBSD's files give FreeBSD's image: recorded bytes, and the linker's rules."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from ksymsfs.mkksyms import main
from tests.elf_writer import write_recorded

STATE_1 = "ecc33588718e8cab7ba1c1ab36a582f68fab19bd4f273a18a650cd1fcca1ffdb"
STATE_2 = "e1c350c9c7489768da0a5630ab780d16671a79f7b233031c7f7d5604ea37d886"

KSYMS = "ksyms.ko", "0xffffffff80f18000+0x2248"
FUSEFS = "fusefs.ko", "0xffffffff80f1b000+0x11cd8"


@pytest.fixture(scope="session")
def freebsd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ELF files of the FreeBSD 13.2 that was recorded."""
    folder = tmp_path_factory.mktemp("freebsd")
    for name in ("kernel", "ksyms.ko", "fusefs.ko"):
        write_recorded(data / "freebsd-13.2" / name, folder / name)
    return folder


def image_of(folder: Path, *modules: tuple[str, str]) -> bytes:
    output = folder / "image"
    args = ["--kernel", str(folder / "kernel"), "-o", str(output)]
    for name, where in modules:
        args += ["-m", f"{folder / name}@{where}"]
    assert main(args) == 0
    return output.read_bytes()


@pytest.mark.parametrize(
    ("modules", "digest"),
    [
        pytest.param([KSYMS], STATE_1, id="kernel and ksyms"),
        pytest.param([KSYMS, FUSEFS], STATE_2, id="fusefs loaded"),
    ],
)
def test_the_image_is_the_one_that_freebsd_served(
    freebsd: Path, modules: list[tuple[str, str]], digest: str
) -> None:
    image = image_of(freebsd, *modules)

    assert hashlib.sha256(image).hexdigest() == digest


def test_the_image_equals_the_recorded_one_byte_for_byte(
    freebsd: Path, data: Path
) -> None:
    recorded = gzip.decompress((data / "freebsd-13.2/image-2.elf.gz").read_bytes())

    assert image_of(freebsd, KSYMS, FUSEFS) == recorded
