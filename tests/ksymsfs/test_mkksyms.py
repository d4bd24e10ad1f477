"""mkksyms(1): options, output, exit status and messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ksymsfs.mkksyms import main

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000010 t do_one
ffffffff81000040 D jiffies
ffffffffc0001000 t nf_init\t[nf_tables]
ffffffffc0002000 t dummy_init\t[dummy]
"""
MODULES = """\
nf_tables 4096 0 - Live 0xffffffffc0001000
dummy 8192 0 - Live 0xffffffffc0002000
"""


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    (tmp_path / "modules").write_text(MODULES)
    return [
        "--kallsyms",
        str(tmp_path / "kallsyms"),
        "--modules",
        str(tmp_path / "modules"),
    ]


def nm(image: Path) -> list[str]:
    output = subprocess.check_output(["nm", "-p", image], text=True)
    names = [line.split()[-1] for line in output.splitlines()]
    return [name for name in names if name != "U"]  # null symbols


def test_saved_tables_become_an_image_in_load_order(
    tables: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "ksyms.elf"

    status = main([*tables, "-o", str(image)])

    assert status == 0
    assert nm(image) == ["_stext", "do_one", "jiffies", "dummy_init", "nf_init"]


def test_the_image_goes_to_standard_output_without_an_option(
    tables: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "ksyms.elf"
    main([*tables, "-o", str(image)])

    piped = subprocess.check_output([sys.executable, "-m", "ksymsfs.mkksyms", *tables])

    assert piped == image.read_bytes()


def test_a_reader_that_has_enough_hears_no_complaint(tables: list[str]) -> None:
    command = [sys.executable, "-m", "ksymsfs.mkksyms", *tables]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()

    assert err == b""
    assert process.returncode == 1


def test_a_loading_module_is_no_consistent_state(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "modules").write_text(MODULES.replace("Live", "Loading", 1))

    status = main([*tables, "-o", str(tmp_path / "ksyms.elf")])

    assert status == 1
    assert "module nf_tables is Loading" in capsys.readouterr().err
    assert not (tmp_path / "ksyms.elf").exists()


def test_a_malformed_line_is_named_with_its_file_and_number(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kallsyms").write_text(KALLSYMS + "nonsense\n")

    status = main([*tables, "-o", str(tmp_path / "ksyms.elf")])

    err = capsys.readouterr().err
    assert status == 2
    assert err.startswith(f"mkksyms: {tmp_path}/kallsyms: line 6: ")


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--kallsyms", str(tmp_path / "none"), "-o", "-"])

    assert status == 2
    assert capsys.readouterr().err == (
        f"mkksyms: {tmp_path}/none: No such file or directory\n"
    )


def test_modules_without_kallsyms_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--modules", str(tmp_path / "modules"), "-o", "-"])

    assert status == 2
    assert "--modules needs --kallsyms" in capsys.readouterr().err


def test_the_image_that_was_there_survives_a_failure(
    tables: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "ksyms.elf"
    image.write_bytes(b"old")
    (tmp_path / "kallsyms").write_text("nonsense\n")

    status = main([*tables, "-o", str(image)])

    assert status == 2
    assert image.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "kallsyms",
        "ksyms.elf",
        "modules",
    ]


@pytest.mark.parametrize(
    "option", ["--kallsyms", "--kernel", "--manifest", "--image", "--modules"]
)
def test_a_file_of_a_terabyte_is_refused_at_once(
    tables: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    kallsyms = tables[:2] if option == "--modules" else []

    status = main([*kallsyms, option, str(huge), "-o", str(tmp_path / "ksyms.elf")])

    assert status == 2
    assert capsys.readouterr().err.startswith(f"mkksyms: {huge}: ")
