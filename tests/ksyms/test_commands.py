"""The ksyms command line: nm, addr2sym and sym2addr, their output and exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ksyms.cli import COMMANDS, main, split_command
from ksymsfs.elf import ElfFormat
from tests.elf_writer import Sym
from tests.ksyms.filter_process import filtering
from tests.ksyms.images import FORMATS, KALLSYMS, bare_elf, kernel_image

ROOT = Path(__file__).resolve().parent.parent.parent
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "kernel.ksyms"
    path.write_bytes(kernel_image())
    return str(path)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    return data


def ksyms(*argv: str) -> int:
    return main(list(argv))


# -- nm


@pytest.mark.parametrize("name", FORMATS)
def test_nm_by_address_prints_the_kernels_own_table(
    name: str, tmp_path: Path, capsys: Captured
) -> None:
    fmt: ElfFormat = FORMATS[name]
    path = tmp_path / "image"
    path.write_bytes(kernel_image(fmt))
    zeros = "0" * (fmt.bits // 4 - 8)
    table = [zeros + line for line in KALLSYMS.decode().splitlines()]

    assert ksyms("-k", str(path), "nm", "-n") == 0

    # A stable sort: symbols at one address stay in the kernel's order.
    assert capsys.readouterr().out.splitlines() == sorted(
        table, key=lambda line: line.split()[0]
    )


def test_nm_sorts_by_name(image: str, capsys: Captured) -> None:
    ksyms("-k", image, "nm")

    names = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert names == sorted(names)
    assert len(names) == 18


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["vfs_*"], ["0000000081000040 T vfs_read"]),
        (["-S", "counter"], ["0000000081001008 0000000000000ff8 b counter"]),
        (["-f", "posix", "jiffies"], ["jiffies D 81001000 8"]),
        (["-f", "just-symbols", "*_e?d", "_end"], ["_end", "new_end"]),
        (["-t", "d", "new_init"], ["0000002147491840 t new_init\t[new]"]),
        (["-g", "*one"], ["0000000081000100 W weak_one"]),
        (["-n", "--no-sort", "-g", "*_end"], [
            "0000000081002000 B _end",
            "0000000080002040 T new_end\t[new]",
        ]),
        (["--size-sort", "-r", "[sw]*_one"], [
            "0000000000000f80 t static_one\t[old]",
            "0000000000000e00 t static_one",
            "0000000000000080 W weak_one",
            "0000000000000080 t static_one",
        ]),
    ],
)  # fmt: skip
def test_nm_prints_what_is_asked_for(
    image: str, capsys: Captured, options: list[str], lines: list[str]
) -> None:
    assert ksyms("-k", image, "nm", *options) == 0

    assert capsys.readouterr().out.splitlines() == lines


def test_nm_of_a_name_that_nothing_has_exits_1(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "nm", "nosuch*") == 1
    assert capsys.readouterr().out == ""


def test_nm_as_json(image: str, capsys: Captured) -> None:
    ksyms("-k", image, "nm", "--json", "old_probe")

    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "old_probe",
            "address": "0x80001000",
            "size": 0x80,
            "type": "t",
            "module": "old",
        }
    ]


# -- addr2sym


def test_addr2sym_names_addresses_in_all_spellings(
    image: str, capsys: Captured
) -> None:
    status = ksyms(
        "-k", image, "addr2sym", "81000041", "0x81000041", "0X81000041",
        "vfs_read+0x1", "vfs_read+1/0xc0", "old:static_one+0x2", "do_one",
    )  # fmt: skip

    assert status == 0
    assert capsys.readouterr().out.splitlines() == [
        *["vfs_read+0x1/0xc0"] * 5,
        "static_one+0x2/0xf80 [old]",
        "do_one+0x0/0x30",
    ]


def test_addr2sym_says_which_are_unknown_and_goes_on(
    image: str, capsys: Captured
) -> None:
    assert ksyms("-k", image, "addr2sym", "-a", "10", "81000000") == 1

    assert capsys.readouterr().out.splitlines() == [
        "0x0000000000000010: ??",
        "0x0000000081000000: _text+0x0/0x10",
    ]


@pytest.mark.parametrize(
    "word", ["+0x10", "vfs_read+", "vfs_read+x", "0x", "1" * 17, "0xg", ""]
)
def test_addr2sym_refuses_what_is_no_address(
    image: str, capsys: Captured, word: str
) -> None:
    assert ksyms("-k", image, "addr2sym", "81000000", word) == 2

    out, err = capsys.readouterr()
    assert out.splitlines() == ["_text+0x0/0x10", "??"]
    assert err.startswith("ksyms: ")


def test_addr2sym_of_an_ambiguous_name_says_so(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "addr2sym", "static_one+1") == 1

    assert "ambiguous" in capsys.readouterr().err


def test_addr2sym_all_prints_the_aliases(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "addr2sym", "--all", "81000041", "10") == 1

    assert capsys.readouterr().out.splitlines() == [
        "vfs_read+0x1/0xc0",
        "alias_of_vfs_read+0x1/0xc0",
        "??",
    ]


def test_addr2sym_of_a_return_address_names_the_call_before(
    image: str, capsys: Captured
) -> None:
    # As %pB: the lookup goes one back, the offset does not.
    assert ksyms("-k", image, "addr2sym", "--return-address", "81000040") == 0

    assert capsys.readouterr().out == "do_one+0x30/0x30\n"


def test_addr2sym_as_json(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "-j", "addr2sym", "80001001", "10") == 1

    assert json.loads(capsys.readouterr().out) == [
        {
            "address": "0x80001001",
            "name": "old_probe",
            "offset": 1,
            "size": 0x80,
            "module": "old",
        },
        {"address": "0x10", "name": None},
    ]


def test_addr2sym_reads_standard_input(
    image: str, stdin: io.BytesIO, capsys: Captured
) -> None:
    stdin.write(b"81000041 10\n\n  vfs_read+0x2\n\xff\n81000000")
    stdin.seek(0)

    assert ksyms("-k", image, "addr2sym") == 1

    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "vfs_read+0x1/0xc0", "??", "vfs_read+0x2/0xc0", "??", "_text+0x0/0x10",
    ]  # fmt: skip
    assert "not found" in err


def test_addr2sym_of_a_word_without_end_takes_no_memory(
    image: str, stdin: io.BytesIO, capsys: Captured
) -> None:
    stdin.write(b"1" * 3_000_000 + b" 81000000\n")
    stdin.seek(0)

    assert ksyms("-k", image, "addr2sym") == 2

    out, err = capsys.readouterr()
    assert out.splitlines() == ["??", "_text+0x0/0x10"]
    assert len(err) < 300


def test_addr2sym_answers_each_address_as_it_comes(image: str) -> None:
    with filtering(image, "addr2sym") as (stdin, stdout):
        for address, name in ((b"81000000", b"_text"), (b"81000041", b"vfs_read")):
            stdin.write(address + b"\n")
            assert stdout.readline().startswith(name)


# -- sym2addr


def test_sym2addr_prints_every_symbol_of_a_name(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "sym2addr", "static_one", "old:static_one") == 0

    assert capsys.readouterr().out.splitlines() == [
        "0000000081000180 0000000000000080 t static_one",
        "0000000081000200 0000000000000e00 t static_one",
        "0000000080001080 0000000000000f80 t static_one\t[old]",
        "0000000080001080 0000000000000f80 t static_one\t[old]",
    ]


def test_sym2addr_of_an_unknown_name_exits_1(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "sym2addr", "nosuch", "kernel:old_probe", "_end") == 1

    out, err = capsys.readouterr()
    assert out.split()[-2:] == ["B", "_end"]
    assert "'nosuch' not found" in err
    assert "'kernel:old_probe' not found" in err


def test_sym2addr_as_json_lines(image: str, capsys: Captured) -> None:
    assert ksyms("-k", image, "sym2addr", "--json-lines", "jiffies", "nosuch") == 1

    assert list(map(json.loads, capsys.readouterr().out.splitlines())) == [
        {
            "name": "jiffies",
            "address": "0x81001000",
            "size": 8,
            "type": "D",
            "module": None,
        },
        {"name": "nosuch", "address": None},
    ]


# -- all of them


def test_the_image_comes_from_the_environment(
    image: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("KSYMS", image)

    assert ksyms("sym2addr", "_text") == 0
    assert capsys.readouterr().out.endswith("_text\n")


def test_standard_input_is_not_both_image_and_addresses(capsys: Captured) -> None:
    assert main(["-k", "-", "addr2sym"]) == 2
    assert "both image and addresses" in capsys.readouterr().err


def test_the_image_comes_from_standard_input(
    stdin: io.BytesIO, capsys: Captured
) -> None:
    stdin.write(kernel_image())
    stdin.seek(0)

    assert ksyms("-k", "-", "sym2addr", "_text") == 0
    assert capsys.readouterr().out.endswith("_text\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"ffffffff81000000 T _text\nnonsense\n", "line 2"),
        (b"0000000000000000 T _text\n", "CAP_SYSLOG"),
        (b"some text", "not an ELF file"),
        (b"\x7fELF", "truncated"),
        (kernel_image()[:-1], "truncated"),
        (bare_elf([Sym("a", 0)]), "CAP_SYSLOG"),
    ],
)
@pytest.mark.parametrize("command", ["nm", "addr2sym 10", "sym2addr x"])
def test_what_is_no_image_is_named_with_the_reason_and_exits_2(
    command: str, content: bytes, message: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    assert ksyms("-k", str(path), *command.split()) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ksyms: {path}: ")
    assert message in err


def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "nosuch"

    assert ksyms("-k", str(path), "nm") == 2
    assert capsys.readouterr().err == f"ksyms: {path}: No such file or directory\n"


@pytest.mark.parametrize("argv", [[], ["frob"], ["nm", "--frob"], ["sym2addr"], ["-x"]])
def test_wrong_usage_exits_2(argv: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)

    assert stop.value.code == 2
    assert "usage: ksyms" in capsys.readouterr().err


def test_help_lists_the_commands(capsys: Captured) -> None:
    assert main(["help"]) == 0

    out = capsys.readouterr().out
    assert [c for c in COMMANDS if f"  {c} " not in out] == []


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ("nm -n", "nm"),
        ("-k nm addr2sym", "addr2sym"),
        ("-jk nm addr2sym", "addr2sym"),
        ("-knm addr2sym", "addr2sym"),
        ("--ksyms nm -p addr2sym -k x", "addr2sym"),
        ("--ksyms=nm addr2sym", "addr2sym"),
        ("-j", None),
    ],
)
def test_the_command_is_the_first_word_that_is_no_option(
    argv: str, command: str | None
) -> None:
    found, rest = split_command(argv.split())

    assert found == command
    assert sorted([*rest, *filter(None, [found])]) == sorted(argv.split())


def test_a_reader_that_has_enough_stops_the_listing_quietly(image: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ksyms", "-k", image, "nm", "--json-lines"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""


def test_a_full_disk_is_an_error(image: str) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "ksyms", "-k", image, "nm"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
            check=False,
        )

    assert result.returncode == 2
    assert result.stderr == b"ksyms: standard output: No space left on device\n"


def test_names_pass_through_as_the_bytes_that_they_are(
    image: str, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    table = b"81000000 T \xff\xfe_\xc3\xa9\n81001000 T after\n"
    path.write_bytes(kernel_image(kallsyms=table))

    result = subprocess.run(
        [sys.executable, "-m", "ksyms", "-k", path, "addr2sym", "81000000"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client"), "LC_ALL": "C"},
        check=True,
    )

    assert result.stdout == b"\xff\xfe_\xc3\xa9+0x0/0x1000\n"


def test_the_plain_question_imports_nothing_slow(image: str) -> None:
    slow = (
        "argparse", "typing", "json", "numpy", "dataclasses", "pathlib", "elftools",
        "logging", "subprocess", "re", "enum", "collections",
    )  # fmt: skip
    code = (
        "import sys; from ksyms.cli import main; main(sys.argv[1:]);"
        f"print([m for m in {slow!r} if m in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-S", "-c", code, "-k", image, "addr2sym", "81000000"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        check=True,
    )

    assert result.stdout == b"_text+0x0/0x10\n[]\n"
