"""README: every command and every line of Python in it is run."""

from __future__ import annotations

import doctest
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.server import install_commands

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands(prompt: str) -> list[tuple[str, str]]:
    """Each command at *prompt* in a console block, with the output below it."""
    found = []
    for block in blocks("console"):
        for piece in re.split(rf"^{re.escape(prompt)} ", block, flags=re.M)[1:]:
            command, _, output = piece.partition("\n")
            found.append((command, output))
    return found


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    # The three commands by their names, from this checkout.
    directory = tmp_path_factory.mktemp("readme")
    programs = directory / "bin"
    install_commands(programs)
    for folder in ("tests", "ksymsfs"):
        (directory / folder).symlink_to(ROOT / folder)
    env = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}",
    }
    env.pop("KSYMS", None)
    return {"cwd": directory, "env": env}


def run(command: str, shell: dict[str, object]) -> str:
    result: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, **shell
    )
    return result.stdout + result.stderr


def differs(expected: str, got: str) -> str:
    """Why *got* is not *expected*, in which ... stands for anything; or nothing."""
    checker = doctest.OutputChecker()
    example = doctest.Example("", expected)
    if checker.check_output(expected, got, doctest.ELLIPSIS):
        return ""
    return checker.output_difference(example, got, doctest.REPORT_NDIFF)


def test_the_commands_for_everybody_print_what_is_shown(
    shell: dict[str, object],
) -> None:
    assert len(commands("$")) > 4
    for command, expected in commands("$"):
        assert not (why := differs(expected, run(command, shell))), f"{command}\n{why}"


@pytest.fixture
def usual_places() -> Iterator[None]:
    # One test at a time may have /dev/ksyms.
    lock = Path(tempfile.gettempdir(), "ksymsfs-usual-places.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if os.path.lexists("/dev/ksyms"):
            pytest.skip("/dev/ksyms is in use on this machine")
        yield


@pytest.mark.fuse
@pytest.mark.kernel
@pytest.mark.skipif(not shutil.which("fusermount3"), reason="no fusermount3 (fuse3)")
def test_the_commands_for_root_print_what_is_shown(
    shell: dict[str, object], usual_places: None
) -> None:
    try:
        for command, expected in commands("#"):
            why = differs(expected, run(command, shell))
            assert not why, f"{command}\n{why}"
    finally:
        subprocess.run(["umount", "-q", "/run/ksymsfs"], stderr=subprocess.DEVNULL)


def test_the_python_prints_what_its_comments_say(shell: dict[str, object]) -> None:
    run(commands("$")[0][0], shell)
    for block in blocks("python"):
        printed = run(shlex.join([sys.executable, "-c", block]), shell)

        expected = re.findall(r"^print.*# (.*)$", block, re.M)
        assert expected
        assert printed.splitlines() == expected


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()

    targets = set(re.findall(r"`?make ([a-z]+)\b", README))
    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^([a-z]+):", makefile, re.M))


@pytest.mark.fuse
@pytest.mark.kernel
def test_the_demo_ends_well_and_leaves_nothing_behind(
    shell: dict[str, object], usual_places: None
) -> None:
    output = run(f"{ROOT}/.ci/demo; echo status $?", shell)

    assert output.endswith("nothing is mounted any more\nstatus 0\n"), output
    assert not os.path.lexists("/dev/ksyms")
    assert " /run/ksymsfs " not in Path("/proc/self/mountinfo").read_text()
    assert re.search(r"^vfs_read\+0xf/0x[0-9a-f]+$", output, re.M)
    assert "OS/ABI:                            UNIX - FreeBSD" in output


def test_without_root_the_demo_shows_the_client_and_says_what_is_needed(
    shell: dict[str, object],
) -> None:
    env = shell["env"]
    assert isinstance(env, dict)
    fake = Path(str(shell["cwd"]), "bin", "id")
    fake.write_text("#!/bin/sh\necho 1000\n")
    fake.chmod(0o755)
    try:
        output = run(f"{ROOT}/.ci/demo; echo status $?", shell)
    finally:
        fake.unlink()

    assert output.startswith("demo: not root")
    assert "vfs_read+0xf/0x360" in output
    assert "run make demo as root" in output
    assert output.endswith("status 0\n")
