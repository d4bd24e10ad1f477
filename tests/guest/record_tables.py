"""Records small tables of a guest's kernel as test data: a tar archive on stdout.

From the top of the checkout (tests/data/debian/README.md says when that was done):

    python3 -m vagrant.vmtest -g bookworm -- python3 -m tests.guest.record_tables |
        tar -C tests/data/debian -xf -
"""

from __future__ import annotations

import io
import os
import platform
import re
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from tests.oracle import Oracle

# Small ones. ip_vti's last function begins on one page and ends on the next;
# nf_dup_netdev has a per-CPU variable.
MODULES = ("crc16", "dummy", "ip_vti", "llc", "nf_dup_netdev", "stp")

# What is loaded and unloaded twice, step by step.
MOVED = "dummy"

MARKS = ("_text", "_stext", "_etext", "_end", "fixed_percpu_data")


def record_motion() -> str:
    """A line a step: uevents so far, inode of /sys/module/NAME, line of /proc/modules.

    A module that is not there has inode 0 and no line.
    """
    twice = f"for cycle in 1 2; do modprobe {MOVED}; modprobe -r {MOVED}; done"
    cycles = subprocess.Popen(["sh", "-c", twice])
    steps: list[str] = []
    ended = False
    while not ended:
        ended = cycles.poll() is not None
        modules = Path("/proc/modules").read_text().splitlines()
        line = next((x for x in modules if x.startswith(f"{MOVED} ")), "")
        uevents = Path("/sys/kernel/uevent_seqnum").read_text().strip()
        inode = 0
        with suppress(FileNotFoundError):
            inode = Path("/sys/module", MOVED).stat().st_ino
        step = f"{uevents} {inode} {line}".rstrip()
        if steps[-1:] != [step]:
            steps.append(step)
    return "".join(f"{step}\n" for step in steps)


def record() -> dict[str, str]:
    """File name -> text: two tables, cut, the kernel's %pS of module text, a motion."""
    files = {"motion.txt": record_motion()}
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    # A trampoline and a kprobe's page: symbols of pseudo modules.
    tracing = Path("/sys/kernel/tracing")
    (tracing / "set_ftrace_filter").write_text("schedule")
    (tracing / "current_tracer").write_text("function")
    # Behind ftrace's call (a probe on it has no page), with and without an endbr64.
    for offset in (5, 9):
        with suppress(OSError):
            # Without O_TRUNC, which removes all probes.
            fd = os.open(tracing / "kprobe_events", os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, b"p:record/one __x64_sys_getpgid+%d" % offset)
            finally:
                os.close(fd)
    (tracing / "events/record/one/enable").write_text("1")
    lines = Path("/proc/kallsyms").read_text().splitlines(keepends=True)
    module = re.compile(rf"\t\[({'|'.join(MODULES)}|__builtin\w+)\]$")
    kept = [
        line
        for line in lines
        if module.search(line) or ("\t" not in line and line.split()[2] in MARKS)
    ]
    modules = [
        line
        for line in Path("/proc/modules").read_text().splitlines(keepends=True)
        if line.split()[0] in MODULES
    ]
    files |= {"kallsyms.txt": "".join(kept), "modules.txt": "".join(modules)}
    text = sorted({int(x[:16], 16) for x in kept if x[17] in "tT" and "[" in x})
    try:
        with Oracle() as oracle:
            files["sprint.txt"] = "".join(f"{a:#x} {oracle(a)}\n" for a in text)
    except OSError as error:
        print(f"no %pS from this kernel: {error}", file=sys.stderr)
    return files


def main() -> None:
    """Write the archive."""
    release = re.match(r"\d+\.\d+", platform.release())
    assert release is not None
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for name, text in record().items():
            member = tarfile.TarInfo(f"{release[0]}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


if __name__ == "__main__":
    main()
