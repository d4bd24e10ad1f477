"""ksymsfs's command line: shapes that mount(8) uses, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksymsfs import cli
from ksymsfs.errors import OptionError
from ksymsfs.options import add_source


def test_mount_passes_a_source_a_directory_and_options() -> None:
    args = cli.parse(
        [
            "ksymsfs",
            "/mnt",
            "-o",
            "rw,nosuid,device=/tmp/k,mode=0440,x-systemd.automount",
        ]
    )

    assert args.paths == ["ksymsfs", "/mnt"]
    assert (args.device, args.mode) == ("/tmp/k", 0o440)


def test_generic_mount_options_say_nothing() -> None:
    args = cli.parse(["/mnt", "-o", "rw,noauto,user,_netdev,defaults", "-o", "nofail"])

    assert args.paths == ["/mnt"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--mode", "0777"],
        ["--mode", "rw"],
        ["--mode", "0o400"],
        ["--max-image", "many"],
        ["--max-image", "-1"],
        ["-o", "bogus=1"],
        ["a", "b", "c"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(argv)

    assert caught.value.code == 2
    assert "_mode" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("64k", 64 << 10), ("3M", 3 << 20), ("1G", 1 << 30)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert cli.parse(["--max-image", text]).max_image == size


@pytest.mark.parametrize(
    ("name", "content", "option"),
    [
        ("kernel.toml", b"", "manifest"),
        ("saved", b"\x7fELF and more", "image"),
        ("kallsyms.txt", b"ffffffff81000000 T _text\n", "kallsyms"),
    ],
)
def test_a_source_file_is_taken_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, option: str
) -> None:
    (tmp_path / name).write_bytes(content)
    args = cli.parse([str(tmp_path / name), "/mnt"])

    add_source(args, args.paths[0])

    given = {k for k in ("manifest", "image", "kallsyms") if getattr(args, k)}
    assert given == {option}


def test_a_source_that_is_not_there_is_refused_with_what_it_may_be() -> None:
    args = cli.parse(["/nonexistent/table", "/mnt"])

    with pytest.raises(OptionError, match="SOURCE is a manifest, a saved image"):
        add_source(args, args.paths[0])
