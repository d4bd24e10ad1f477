"""First use: what the messages say to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from ksyms.advice import advice
from ksyms.cli import main
from tests.integration.server import as_nobody
from tests.ksyms.images import kernel_image


def failure(code: int, path: str = "/dev/ksyms") -> OSError:
    return OSError(code, os.strerror(code), path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOENT, "ksymsfs /run/ksymsfs as root"),
        (errno.EACCES, "run as root"),
        (errno.EPERM, "CAP_SYSLOG"),
        (errno.EBUSY, "open already"),
        (errno.ENXIO, "try again"),
        (errno.ENOTCONN, "start ksymsfs again"),
        (errno.EIO, "log"),
    ],
)
def test_each_error_of_the_device_says_what_to_do(code: int, words: str) -> None:
    assert words in advice(failure(code), "linux")


def test_freebsds_own_device_is_loaded() -> None:
    assert "kldload ksyms" in advice(failure(errno.ENOENT), "freebsd14")


def test_errors_of_other_files_are_left_alone(tmp_path: Path) -> None:
    assert advice(failure(errno.ENOENT, str(tmp_path / "nosuch"))) == ""
    assert advice(failure(errno.EACCES, __file__)) == ""
    assert advice(OSError(errno.ENOSPC, "full")) == ""


def test_a_link_to_nothing_is_a_device_that_nobody_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = tmp_path / "ksyms"
    device.symlink_to(tmp_path / "run" / "ksyms")

    assert main(["-k", str(device), "nm"]) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"ksyms: {device}: No such file or directory: ")
    assert "ksymsfs /run/ksymsfs as root" in said
    assert said.count("\n") == 1


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize(
    "words",
    [
        ["ksyms", "-k", "/proc/kallsyms", "nm"],
        ["ksyms", "capture", "{place}/capture"],
        ["ksyms", "-k", "-", "lockstat", "true"],
        ["ksymsfs.mkksyms", "-o", "{place}/image"],
        ["ksymsfs", "{place}/mnt"],
    ],
    ids=lambda words: " ".join(words[:4]),
)
def test_an_ordinary_user_gets_one_sentence_that_says_what_to_do(
    words: list[str], tmp_path: Path
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    tmp_path.chmod(0o777)

    words = [word.format(place=tmp_path) for word in words]
    result = as_nobody("-m", *words, stdin=kernel_image())

    assert result.returncode in (1, 2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.search(r"CAP_SYSLOG|CAP_PERFMON", line), line


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_ordinary_user_is_told_to_be_root(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(kernel_image())
    image.chmod(0o400)
    (tmp_path / "device").symlink_to(image)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)

    result = as_nobody("-m", "ksyms", "-k", tmp_path / "device", "nm")

    assert result.returncode == 2
    assert "only root may read it: run as root" in result.stderr
