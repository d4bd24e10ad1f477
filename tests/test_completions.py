"""Completion: what bash, zsh and fish offer is what the parsers take."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.completions import ROOT, Command, files, programs

PROGRAMS = {program.name: program for program in programs()}
FILES = {path.name: path for path, _ in files()}
COMMANDS = [
    pytest.param(program.name, path, command, id=f"{program.name} {path}".strip())
    for program in PROGRAMS.values()
    for path, command in program.walk()
]


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(p, text, id=p.name) for p, text in files()]
)
def test_the_files_are_those_of_the_parsers(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: python -m tests.completions"


def options(command: Command) -> set[str]:
    return {name for option in command.options for name in option.names}


def shell(name: str, *words: str) -> list[str]:
    """What a shell prints for a script, as lines."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    result = subprocess.run([name, *words], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def bash(program: str, *words: str) -> set[str]:
    """What bash offers for the last of *words*."""
    typed = [program, *words]
    script = f"""
        compopt() {{ :; }}  # works only where keys were pressed
        source {FILES[f"{program}.bash"]}
        COMP_WORDS=({shlex.join(typed)}) COMP_CWORD={len(words)}
        _{program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return {*shell("bash", "--norc", "-c", script)} - {""}


def fish(program: str, *words: str) -> set[str]:
    """What fish offers for the last of *words*."""
    typed = f"{shlex.join([program, *words[:-1]])} {words[-1]}"
    source = f"source {FILES[f'{program}.fish']}"
    script = f"{source}; complete -C {shlex.quote(typed)}"
    return {line.split("\t")[0] for line in shell("fish", "--no-config", "-c", script)}


@pytest.mark.parametrize(("program", "path", "command"), COMMANDS)
def test_bash_offers_every_option_and_no_other(
    program: str, path: str, command: Command
) -> None:
    assert bash(program, *path.split(), "-") == options(command)


@pytest.mark.parametrize(("program", "path", "command"), COMMANDS)
def test_fish_offers_every_option_and_no_other(
    program: str, path: str, command: Command
) -> None:
    assert fish(program, *path.split(), "-") == options(command)


@pytest.mark.parametrize(("program", "path", "command"), COMMANDS)
def test_zsh_offers_every_option_and_no_other(
    program: str, path: str, command: Command
) -> None:
    # In place of _arguments, which wants a terminal, one that prints what it gets:
    # (exclusions)-o[help], --option=[help]:argument:action, *:argument:action.
    name = "_".join([f"_{program}", *path.split()])
    script = f"""
        _arguments() {{ print -rl -- "$@" }}
        source {FILES[f"_{program}"]} >/dev/null
        {name}
    """
    specs = [line for line in shell("zsh", "-f", "-c", script) if "[" in line]

    offered = {re.sub(r"^\([^)]*\)|=?\[.*", "", spec) for spec in specs}
    assert offered == options(command)


@pytest.mark.parametrize("offer", [bash, fish])
@pytest.mark.parametrize(
    "words", [["nm", "-f"], ["-k", "nm", "nm", "--format"]], ids=["short", "long"]
)
def test_words_that_an_option_takes_are_offered(
    offer: object, words: list[str]
) -> None:
    assert callable(offer)
    assert offer("ksyms", *words, "") == {"bsd", "posix", "just-symbols"}


@pytest.mark.parametrize("offer", [bash, fish])
def test_commands_are_offered(offer: object) -> None:
    assert callable(offer)
    names = {command.name for command in PROGRAMS["ksyms"].commands}

    assert offer("ksyms", "") == names
    assert offer("ksyms", "bpf", "") == {"check", "dump"}


@pytest.mark.parametrize("offer", [bash, fish])
def test_files_and_folders_are_offered(
    offer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(offer)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "a-folder").mkdir()

    for words in (["mkksyms", "-o"], ["ksyms", "bpf", "dump"], ["ksyms", "-k"]):
        offered = {word.rstrip("/") for word in offer(*words, "a-")}
        assert offered == {"a-file", "a-folder"}, words
    assert {word.rstrip("/") for word in offer("ksymsfs", "a-")} == {"a-folder"}


@pytest.mark.parametrize("offer", [bash, fish])
def test_commands_of_the_system_are_offered_to_lockstat(offer: object) -> None:
    assert callable(offer)
    assert "sleep" in offer("ksyms", "lockstat", "slee")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_bash_file_is_a_good_shell_script(program: str) -> None:
    assert shell("shellcheck", "-s", "bash", str(FILES[f"{program}.bash"])) == []


class Terminal:
    """An interactive zsh that has the files of this checkout."""

    def __init__(self) -> None:
        if shutil.which("zsh") is None:
            pytest.skip("zsh is not installed")
        self._fd, terminal = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", "zsh", "-f", "-i"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(terminal)
        folders = shlex.join({str(path.parent) for path in FILES.values()})
        self.type(f"fpath=({folders} $fpath); autoload -Uz compinit\n", "compinit")
        self.type("compinit -u -D; print rea''dy\n", "ready")

    def type(self, keys: str, expected: str) -> None:
        """Type, and wait until it answers as expected."""
        os.write(self._fd, keys.encode())
        shown = ""
        while expected not in shown:
            if not select.select([self._fd], [], [], 30)[0]:
                pytest.fail(f"{keys!r} gave {shown!r}, not {expected!r}")
            shown += os.read(self._fd, 4096).decode(errors="replace")

    def close(self) -> None:
        """End it."""
        os.close(self._fd)  # which hangs up
        self._process.wait(20)


def test_zsh_completes_what_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    terminal = Terminal()
    try:
        for typed, word in [
            ("ksyms loc", "lockstat"),
            ("ksyms nm --size", "--size-sort"),
            ("ksyms nm -f po", "posix"),
            ("ksyms -k x bpf che", "check"),
            ("ksyms lockstat -s 5 slee", "sleep"),
            ("ksyms bpf dump README.m", "README.md"),
            ("ksymsfs --flavor net", "netbsd"),
            ("mkksyms --kalls", "--kallsyms"),
        ]:
            terminal.type(f"{typed}\t", word)
            terminal.type("\x15print en''d\n", "end")
    finally:
        terminal.close()
