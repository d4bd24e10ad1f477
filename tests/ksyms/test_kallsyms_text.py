"""Kallsyms text and captures in place of an image."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import ksyms
from ksyms import SymbolTable
from tests.ksyms.images import KALLSYMS, MODULES, kernel_image


@pytest.fixture(scope="module")
def expected() -> SymbolTable:
    return SymbolTable.from_bytes(kernel_image())


def test_a_capture_stands_for_its_image(tmp_path: Path, expected: SymbolTable) -> None:
    (tmp_path / "ksyms").write_bytes(kernel_image())

    assert list(ksyms.load(tmp_path)) == list(expected)


def test_a_capture_without_an_image_stands_for_its_texts(
    tmp_path: Path, expected: SymbolTable
) -> None:
    (tmp_path / "kallsyms").write_bytes(KALLSYMS)
    (tmp_path / "modules").write_bytes(MODULES)

    table = ksyms.load(tmp_path)

    assert list(table) == list(expected)
    assert [m.name for m in table.modules] == [m.name for m in expected.modules]


def test_kallsyms_text_stands_for_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kallsyms").write_bytes(KALLSYMS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(KALLSYMS)))

    for path in (str(tmp_path / "kallsyms"), "-"):
        table = ksyms.load(path)
        assert str(table.symbolize(0x81000041)) == "vfs_read+0x1/0xc0"
        assert table.lookup("new_init").module == "new"


def test_a_folder_with_neither_is_no_capture(tmp_path: Path) -> None:
    with pytest.raises(ksyms.ImageError, match="not a capture"):
        ksyms.load(tmp_path)


def test_malformed_text_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_bytes(KALLSYMS + b"8100000g T bad\n")

    with pytest.raises(ksyms.ImageError, match="line 19") as error:
        ksyms.load(path)

    assert error.value.path == str(path)
    assert "stdin" not in str(error.value)


def test_text_whose_addresses_the_kernel_hid_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_bytes(b"0000000000000000 T _text\n0000000000000000 T _stext\n")

    with pytest.raises(ksyms.RestrictedError, match=r"kptr_restrict"):
        ksyms.load(path)
