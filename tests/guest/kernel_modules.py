"""Loading and unloading modules of the running kernel, and what it says of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ksymsfs.sources.modules import Module, parse_modules


class Line(NamedTuple):
    """A line of /proc/kallsyms; the kernel's own symbols have no module."""

    address: int
    letter: str
    name: str
    module: str | None


def kallsyms() -> list[Line]:
    """The lines of /proc/kallsyms, in its order."""
    return [
        Line(int(f[0], 16), f[1], f[2], f[3][1:-1] if len(f) > 3 else None)
        for f in map(str.split, Path("/proc/kallsyms").read_text().splitlines())
    ]


def loaded() -> list[Module]:
    """The modules in load order."""
    return parse_modules(Path("/proc/modules").read_bytes())[::-1]


def load(*names: str) -> None:
    """Load modules and what they need; modprobe(8)."""
    subprocess.run(["modprobe", "-a", *names], check=True)


def unload(*names: str) -> None:
    """Unload modules, and what only they needed."""
    subprocess.run(["modprobe", "-r", *names], check=True)


@contextmanager
def loading(*names: str) -> Iterator[None]:
    """The modules are loaded inside the block, and were not before it."""
    unload(*names)
    load(*names)
    try:
        yield
    finally:
        unload(*names)


def section_addresses(module: str) -> dict[str, int]:
    """Section name -> address, from /sys/module."""
    folder = Path("/sys/module", module, "sections")
    return {path.name: int(path.read_text(), 16) for path in folder.iterdir()}


class FileSymbol(NamedTuple):
    """A symbol of a module's ELF file, its value relative to its section."""

    name: str
    value: int
    size: int
    type: str
    section: str


def file_symbols(module: str, directory: Path) -> list[FileSymbol]:
    """The symbols of the file that modprobe loads, as readelf shows them."""
    show = ["modinfo", "-n", module]
    path = Path(
        subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    )
    if path.suffix == ".xz":
        unpacked = directory / path.stem
        with unpacked.open("wb") as out:
            subprocess.run(["xz", "-dc", path], stdout=out, check=True)
        path = unpacked
    text = subprocess.run(
        ["readelf", "-W", "-S", "-s", path], capture_output=True, text=True, check=True
    ).stdout
    sections = dict(re.findall(r"^ +\[ *(\d+)\] (\S+)", text, re.MULTILINE))
    rows = re.findall(
        r"^ +\d+: ([0-9a-f]+) +(\d+|0x[0-9a-f]+) (\w+) +\w+ +\w+ +(\d+) (\S+)$",
        text,
        re.MULTILINE,
    )
    return [
        FileSymbol(name, int(value, 16), int(size, 0), type_, sections[section])
        for value, size, type_, section, name in rows
    ]
