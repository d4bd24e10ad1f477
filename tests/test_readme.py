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
from typing import NamedTuple

import pytest

from ksyms.cli import COMMANDS
from ksyms.contention import KINDS
from tests.completions import programs
from tests.examples import MAKEFILE, PAGES
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
    # make, in one of the commands, is not to know that `make test` runs the tests.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    env = {
        **inherited,
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
    about_the_device = [(c, out) for c, out in commands("#") if "lockstat" not in c]
    try:
        for command, expected in about_the_device:
            why = differs(expected, run(command, shell))
            assert not why, f"{command}\n{why}"
    finally:
        subprocess.run(["umount", "-q", "/run/ksymsfs"], stderr=subprocess.DEVNULL)


class Row(NamedTuple):
    """A line of lockstat's report."""

    waits: int
    indv: int
    cuml: int
    nsec: int
    lock: str
    caller: str


_COLUMNS = "Count indv cuml rcnt     nsec Lock                   Caller"
_RULE = "-" * 79


def lockstat_report(text: str) -> dict[str, tuple[int, list[Row]]]:
    """Events and rows of each kind of wait; it fails for a line of another form."""
    lines = iter(text.splitlines())
    found = {}
    for blank in lines:
        heading = re.fullmatch(
            r"([\w/ -]+): (\d+) events in \d+\.\d{3} seconds \(\d+ events/sec\)",
            next(lines),
        )
        assert blank == ""
        assert heading
        assert [next(lines) for _ in range(3)] == ["", _COLUMNS, _RULE]
        rows = []
        while (line := next(lines)) != _RULE:
            row = re.fullmatch(
                r"( *\d+) ( *\d+)% ( *\d+)% 0\.00 ( *\d+) (\S+) +(\S+)", line
            )
            assert row, line
            assert line.index(row[5]) == _COLUMNS.index("Lock")
            waits, indv, cuml, nsec = map(int, row.groups()[:4])
            rows.append(Row(waits, indv, cuml, nsec, row[5], row[6]))
        found[heading[1]] = int(heading[2]), rows
    return found


@pytest.fixture
def build(shell: dict[str, object]) -> None:
    Path(str(shell["cwd"]), "Makefile").write_text(MAKEFILE)


def test_the_report_of_lockstat_adds_up() -> None:
    ((_, shown),) = [c for c in commands("#") if "lockstat" in c[0]]

    report = lockstat_report(shown)

    assert report.keys() <= {kind.event for kind in KINDS.values()}
    for events, rows in report.values():
        cumulated = 0
        for row in rows:
            cumulated += row.waits
            assert row.indv == round(100 * row.waits / events)
            assert row.cuml == round(100 * cumulated / events)
            assert re.fullmatch(r"0x[0-9a-f]{16}|[a-z]\w*", row.lock)
            assert re.fullmatch(r"[a-z]\w*\+0x[0-9a-f]+", row.caller)


@pytest.mark.perf
@pytest.mark.usefixtures("build")
def test_lockstat_reports_in_the_form_that_is_shown(
    shell: dict[str, object], tmp_path: Path
) -> None:
    ((command, shown),) = [c for c in commands("#") if "lockstat" in c[0]]
    assert run(f"mkksyms -o {tmp_path}/ksyms", shell) == ""

    printed = run(f"export KSYMS={tmp_path}/ksyms; {command}", shell)

    report = lockstat_report(printed)
    assert "R/W semaphore writer block" in report.keys() & lockstat_report(shown)
    symbols = Path("/proc/kallsyms").read_text().splitlines()
    names = {symbol.split()[2] for symbol in symbols}
    for _, rows in report.values():
        assert 0 < len(rows) <= 2
        assert [row.waits for row in rows] == sorted(
            (r.waits for r in rows), reverse=True
        )
        for row in rows:
            caller = row.caller.partition(":")[2] or row.caller
            assert caller.partition("+")[0] in names, row
    # The file's lock has no name; who wrote to it had to wait.
    events, (row, *_) = report["R/W semaphore writer block"]
    assert events >= row.waits > 4
    assert row.lock.startswith("0x")


def test_the_python_prints_what_its_comments_say(shell: dict[str, object]) -> None:
    run(commands("$")[0][0], shell)
    for block in blocks("python"):
        printed = run(shlex.join([sys.executable, "-c", block]), shell)

        expected = re.findall(r"^print.*# (.*)$", block, re.M)
        assert expected
        assert printed.splitlines() == expected


def test_every_option_and_manual_that_is_named_exists() -> None:
    options = {
        name
        for program in programs()
        for _, command in program.walk()
        for option in command.options
        for name in option.names
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README))
    assert named - {"--now"} <= options  # systemctl's

    ours = re.findall(r"\b(m?kksyms|ksyms\w*)\((\d)\)", README)
    assert {f"{name}.{number}" for name, number in ours} <= PAGES.keys()


def test_every_command_is_named_and_no_other() -> None:
    named = re.findall(
        r"(?:^[#$] |`|\| )ksyms (?:-k \S+ |--json )*([a-z]\w*)", README, re.M
    )

    assert set(named) == COMMANDS.keys()


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


@pytest.mark.fuse
def test_without_dev_fuse_the_demo_shows_the_client_and_says_what_is_needed(
    shell: dict[str, object],
) -> None:
    dev = Path(str(shell["cwd"]), "dev")
    dev.mkdir()
    hide = f"cp -a /dev/null /dev/urandom {dev}; mount --bind {dev} /dev"

    output = run(f"unshare -m sh -c '{hide}; {ROOT}/.ci/demo; echo status $?'", shell)

    assert output.startswith("demo: there is no /dev/fuse")
    assert "vfs_read+0xf/0x360" in output
    assert "modprobe fuse" in output
    assert output.endswith("status 0\n")


def test_what_the_set_up_may_not_install_is_named(tmp_path: Path) -> None:
    # A user, on a machine that lacks a package, with all of the rest there.
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/pip").symlink_to("/bin/true")
    (tmp_path / "bin").mkdir()
    for name, said in (("id", "1000"), ("dpkg-query", "")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho {said}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (venv / "installed").touch()

    result = subprocess.run(
        [ROOT / ".ci/setup", venv, "libfuse2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
    )

    assert result.returncode == 0
    assert result.stderr == (
        "setup: not installed: libfuse2; as root on Debian I would\n"
    )


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
