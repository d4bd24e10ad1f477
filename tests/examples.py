"""The examples of --help and of the manual pages, the files they name, and a shell.

An example is for everybody, and then runs on files that are made here; or it is about
the machine, and then runs as root, in a /dev and a /run of its own with the device.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import ksyms.cli
import ksymsfs.cli
import ksymsfs.mkksyms
from ksyms.capture import write_capture
from ksyms.running import RunningLinux
from tests.completions import programs
from tests.elf_writer import write_recorded
from tests.integration.server import install_commands
from tests.ksyms import bpf_cases
from tests.ksymsfs.test_linux_files import SECTIONS, dummy_ko, vmlinux

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
PAGES = {
    "ksyms.1": ROOT / "client/ksyms.1",
    "ksyms.4": ROOT / "ksymsfs/ksyms.4",
    "ksymsfs.8": ROOT / "ksymsfs/ksymsfs.8",
    "mkksyms.1": ROOT / "ksymsfs/mkksyms.1",
}
_MAINS = {
    "ksyms": ksyms.cli.main,
    "ksymsfs": ksymsfs.cli.main,
    "mkksyms": ksymsfs.mkksyms.main,
}


# A build whose jobs wait for each other: all write to one file.
MAKEFILE = """\
all: 1 2 3 4
1 2 3 4:
	@dd if=/dev/zero of=one bs=8M count=12 conv=notrunc status=none
"""


class Example(NamedTuple):
    """A line for the shell, and whether it is about the machine it runs on."""

    command: str
    is_live: bool


class Outcome(NamedTuple):
    """What became of a command."""

    status: int
    stdout: str
    stderr: str


# -- where examples are


def commands() -> list[str]:
    """Every command that has a --help: the programs, and what they have below."""
    return [
        f"{program.name} {path}".strip()
        for program in programs()
        for path, _ in program.walk()
    ]


def help_of(command: str) -> str:
    """What COMMAND --help prints."""
    program, *words = command.split()
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        _MAINS[program]([*words, "--help"] if words or program != "ksyms" else ["help"])
    return printed.getvalue()


# The commands that ask the machine, whatever files there are.
_LIVE = re.compile(
    r"(?x) ^(ksymsfs|fusermount3|umount|dmesg|perf)\b | /dev/ksyms | /proc/kallsyms"
    r"| \b(capture\ |lockstat\ )(?!--help) | ^mkksyms(\ -o\ \S+)?(\ \||$)"
    r"| bpf\ check\ [^-]*$"
)


def help_examples(command: str) -> list[Example]:
    """Those that --help ends with, without the remarks beside them."""
    _, _, text = help_of(command).partition("\nexamples:\n")
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.split(r"\s{2,}(?!-)", line.strip())[0] for line in lines]
    return [Example(line, bool(_LIVE.search(line))) for line in found if line]


def page_examples(page: str) -> list[Example]:
    """Those of a manual page: at the prompt # for root, at $ for everybody."""
    found = re.findall(r"^\.Dl ([#$]) (.*)$", PAGES[page].read_text(), re.M)
    return [Example(command, prompt == "#") for prompt, command in found]


def documents() -> dict[str, list[Example]]:
    """All examples, by the page or command they belong to."""
    return {
        **{f"{command} --help": help_examples(command) for command in commands()},
        **{page: page_examples(page) for page in PAGES},
    }


# -- what they run on


def write_files(directory: Path) -> None:
    """Make the files that examples name, and the commands in bin."""
    install_commands(directory / "bin")
    for path in (DATA / "demo").iterdir():
        shutil.copy(path, directory)
    text = (directory / "kallsyms.txt").read_text()
    later = text + "ffffffffc0302000 t bpf_prog_0123456789abcdef_later\t[bpf]\n"
    (directory / "later.txt").write_text(later)
    tables = "--modules modules.txt --kallsyms"
    for line in (
        f"mkksyms {tables} kallsyms.txt -o demo.ksyms",
        f"mkksyms {tables} later.txt -o later.ksyms",
        f"mkksyms {tables} kallsyms.txt --layout debug -o vmlinux.old",
    ):
        (outcome,) = run([line], directory)
        assert outcome == Outcome(0, "", ""), outcome
    (directory / "addresses").write_text("ffffffff816b8a0c\n0xffffffffc0201142\n")
    (directory / "oops.txt").write_text("RIP: 0010:0xffffffff816b8a0c\n")
    (directory / "Makefile").write_text(MAKEFILE)

    vmlinux().write(directory / "vmlinux")
    dummy_ko().write(directory / "dummy.ko")
    (directory / "sections.txt").write_text(SECTIONS)
    for name in ("kernel", "ksyms.ko"):
        write_recorded(DATA / "freebsd-13.2" / name, directory / name)
    shutil.copy(ROOT / "ksymsfs/examples/linux.toml", directory / "kernel.toml")

    (directory / "vmlinux.btf").write_bytes(bpf_cases.table("vmlinux.btf"))
    (directory / "nf_tables.btf").write_bytes(bpf_cases.table("moda.btf"))
    shutil.copy(directory / "watch.bpf.o", directory / "prog.bpf.o")
    (directory / "build").mkdir()
    for name in ("prog.bpf.o", "watch.bpf.o"):
        shutil.copy(directory / name, directory / "build")
    for name, table in (("6.1", "kallsyms.txt"), ("6.12", "later.txt")):
        _write_capture(directory, directory / "captures" / name, table)


def _write_capture(directory: Path, capture: Path, table: str) -> None:
    root = directory / f"root of {capture.name}"
    for name, source in (
        ("proc/kallsyms", table),
        ("proc/modules", "modules.txt"),
        ("sys/kernel/btf/vmlinux", "vmlinux.btf"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(directory / source, root / name)
    capture.parent.mkdir(exist_ok=True)
    write_capture(capture, linux=RunningLinux(root), device=root / "dev/ksyms")
    shutil.rmtree(root)


# -- running them

# Own mounts, so that the usual places can be taken. No server outlives the shell.
ISOLATED = """
set -e
mkdir dev
cp -a /dev/null /dev/zero /dev/urandom /dev/tty /dev/fuse dev
mount --bind dev /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
mount --bind bin /usr/local/sbin
finish() {
    rm -f busy
    grep fuse.ksymsfs /proc/self/mounts | cut -d " " -f 2 | xargs -r umount -l
}
trap finish EXIT
set +e
"""

# Four writers of one file: somebody always waits for its lock.
CONTENDED = """
touch busy
while [ -e busy ]; do
    for writer in 1 2 3 4; do
        dd if=/dev/zero of=contended bs=8M count=2 conv=notrunc status=none &
    done
    wait
    sleep 0.2
done &
"""


def run(
    lines: Sequence[str], place: Path, *, first: str = "", prefix: Sequence[str] = ()
) -> list[Outcome]:
    """Run *lines* one after the other in one shell, whatever becomes of each.

    *first* is what that shell does before, and *prefix* a command that starts it.
    """
    script = [first]
    for number, line in enumerate(lines):
        script.append(f"{{ {line}\n}} >.{number}.out 2>.{number}.err </dev/null")
        script.append(f"echo $? >.{number}.status")
    result = subprocess.run(
        [*prefix, "sh", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}"},
    )
    assert result.stderr == ""
    return list(_outcomes(place, len(lines)))


def _outcomes(place: Path, count: int) -> Iterator[Outcome]:
    for number in range(count):
        status, out, err = (
            (place / f".{number}.{what}").read_text(errors="replace")
            for what in ("status", "out", "err")
        )
        yield Outcome(int(status), out, err)
