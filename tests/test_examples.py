"""Every example is run: those that --help ends with, and those of the manual pages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.examples import (
    CONTENDED,
    ISOLATED,
    PAGES,
    ROOT,
    Example,
    Outcome,
    commands,
    documents,
    help_examples,
    run,
    write_files,
)

DOCUMENTS = documents()
LIVE = {
    name: [example.command for example in examples if example.is_live]
    for name, examples in DOCUMENTS.items()
}

# Programs of others that examples run, and where they come from.
_OTHERS = {"addr2line": "binutils", "jq": "jq", "make": "make"}

# What the exit status tells besides that all went well.
_STATUS = {"ksyms diff": {1}, "ksyms doctor": {0, 1}}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("examples") / "files"
    write_files(directory)
    return directory


@pytest.fixture
def place(files: Path, tmp_path: Path) -> Path:
    """A folder with what examples name, for a test to work in."""
    return Path(shutil.copytree(files, tmp_path / "place", symlinks=True))


@pytest.mark.parametrize("command", commands())
def test_every_help_ends_with_examples_of_its_command(command: str) -> None:
    own = [e.command for e in help_examples(command) if command in e.command]

    # Options may stand between a program and its command.
    program, *words = command.split()
    own += [
        e.command
        for e in help_examples(command)
        if re.search(rf"\b{program} -\S+ \S+ {' '.join(words)}\b", e.command)
    ]
    assert own


def check(command: str, outcome: Outcome, place: Path) -> None:
    """It did what it says: nothing went wrong, and there is something to show."""
    start = " ".join(command.split()[:2])
    expected = {0} if "|" in command else _STATUS.get(start, {0})
    assert outcome.status in expected, (command, outcome)
    if " -d " not in command:  # debug messages
        assert outcome.stderr == "", (command, outcome)
    written = re.findall(r"(?:-o|--junit|--html) ([^\s=]+)(?: |$)", command)
    for name in written:
        assert (place / name).stat().st_size > 0, command
    assert outcome.stdout.strip() or written, (command, outcome)


def skip_without(commands: list[str]) -> None:
    text = "\n".join(commands)
    for program, package in _OTHERS.items():
        if re.search(rf"\b{program} ", text) and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: {package})")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_examples_for_everybody_work(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [example.command for example in DOCUMENTS[name] if not example.is_live]
    skip_without(lines)
    monkeypatch.setenv("KSYMS", "demo.ksyms")

    for command, outcome in zip(lines, run(lines, place), strict=True):
        check(command, outcome, place)


def runs(name: str, program: str) -> bool:
    return any(re.search(rf"\b{program} ", line) for line in LIVE[name])


def needs(name: str) -> list[pytest.MarkDecorator]:
    perf = [pytest.mark.perf] if runs(name, "(perf|lockstat)") else []
    return [pytest.mark.fuse, pytest.mark.kernel, *perf]


def with_proof(command: str) -> str:
    """A command that says nothing when it works, and what shows that it did."""
    if match := re.match(r"(?:fusermount3 -u|umount) (\S+)$", command):
        return f"{command} && ! mountpoint -q {match[1]} && echo unmounted"
    if command.startswith("perf record"):
        return f"{command} && ls perf.data"
    if not command.startswith(("ksymsfs", "mount ")):
        return command
    device = "/mnt/ksyms" if "--device none" in command else "/dev/ksyms"
    if match := re.search(r"--device (/\S+)", command):
        device = match[1]
    if " -f " not in command:
        return f"{command} && head -c 4 {device}"
    # It stays until it is told to go.
    return (
        f"{command} & until head -c 4 {device} 2>/dev/null || ! kill -0 $!; "
        "do sleep 0.1; done; kill $!; wait $!"
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in LIVE if LIVE[name]]
)
def test_the_examples_for_root_work_in_their_order(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(LIVE[name])
    monkeypatch.delenv("KSYMS", raising=False)
    # The others are about a device that is there.
    first = [] if "ksymsfs" in name else ["ksymsfs"]
    lines = [with_proof(command) for command in (*first, *LIVE[name])]

    setup = ISOLATED + CONTENDED * runs(name, "lockstat")

    outcomes = run(lines, place, first=setup, prefix=["unshare", "-m"])

    for command, outcome in zip(lines, outcomes, strict=True):
        check(command, outcome, place)


@pytest.mark.fuse
@pytest.mark.kernel
def test_the_line_of_fstab_that_is_shown_serves_the_device(place: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"^    (ksymsfs .* fuse\.ksymsfs .*)$", readme, re.M)
    shown += re.findall(r"^\.Dl (ksymsfs .*)$", PAGES["ksymsfs.8"].read_text(), re.M)
    if shutil.which("mount.fuse") is None:
        pytest.skip("there is no mount.fuse (Debian: fuse3)")
    assert len(set(shown)) == 1
    (place / "fstab").write_text(f"{shown[0]}\n")
    lines = ["mount -a -T fstab", "head -c 4 /dev/ksyms", "umount /run/ksymsfs"]

    outcomes = run(lines, place, first=ISOLATED, prefix=["unshare", "-m"])

    assert outcomes == [
        Outcome(0, "", ""),
        Outcome(0, "\x7fELF", ""),
        Outcome(0, "", ""),
    ]


def test_what_is_about_the_machine_is_told_from_what_is_not() -> None:
    live = {e.command for examples in DOCUMENTS.values() for e in examples if e.is_live}

    assert {"ksymsfs", "mkksyms -o ksyms.elf", "ksyms bpf check prog.bpf.o"} <= live
    assert Example("ksyms nm -n", False) in DOCUMENTS["ksyms nm --help"]
