"""Saved images are served as they are, whichever system they are from."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ksymsfs.mkksyms import main
from ksymsfs.sources.saved_image import SavedImage


@pytest.fixture
def freebsd(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(
        gzip.decompress((data / "freebsd-13.2/image-2.elf.gz").read_bytes())
    )
    return path


def test_the_bytes_stay_what_they_were(freebsd: Path, tmp_path: Path) -> None:
    status = main(["--image", str(freebsd), "-o", str(tmp_path / "out")])

    assert status == 0
    assert (tmp_path / "out").read_bytes() == freebsd.read_bytes()


def test_the_modules_of_a_foreign_image_are_numbered(freebsd: Path) -> None:
    files = SavedImage(freebsd).linker_files()

    assert [(f.name, len(f.symtab)) for f in files] == [
        ("kernel", 30851),
        ("#2", 77),
        ("#3", 626),
    ]


def test_the_modules_of_an_image_of_ours_have_their_names(tmp_path: Path) -> None:
    example = Path(__file__).parent.parent.parent / "ksymsfs/examples/linux.toml"
    image = tmp_path / "image"
    main(["--manifest", str(example), "-o", str(image)])

    files = SavedImage(image).linker_files()

    assert [(f.name, f.address, f.size) for f in files[1:]] == [
        ("nf_tables", 0xFFFFFFFFC0A01000, 0x54000),
        ("dummy", 0xFFFFFFFFC0B00000, 0x4000),
    ]
    assert sum(len(f.symtab) for f in files) * 24 + 464 < image.stat().st_size


def test_a_saved_image_takes_no_other_layout(
    freebsd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--image", str(freebsd), "--layout", "freebsd", "-o", "-"])

    assert status == 2
    assert "a saved image has its layout already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cut", "reason"),
    [(0, "offset 0x0: "), (100, "ends beyond"), (1_000_000, "ends beyond")],
)
def test_a_torn_image_is_refused(
    freebsd: Path, capsys: pytest.CaptureFixture[str], cut: int, reason: str
) -> None:
    freebsd.write_bytes(freebsd.read_bytes()[:cut])

    status = main(["--image", str(freebsd), "-o", "-"])

    assert status == 2
    assert reason in capsys.readouterr().err


def test_an_edited_image_has_another_fingerprint(freebsd: Path) -> None:
    source = SavedImage(freebsd)
    before = source.fingerprint()

    freebsd.write_bytes(freebsd.read_bytes() + b"\0")

    assert source.fingerprint() != before
