"""Parses a manifest: a TOML file that describes a kernel and its modules.

    [kernel]
    file = "vmlinux"            # an ELF file, relative to the manifest; or
    symbols = '''
    ffffffff81000000 T _stext
    '''                         # lines of /proc/kallsyms
    address, size               # where it is; default: what file or symbols tell
    relocate                    # bytes by which KASLR moved file
    bits, byteorder, machine    # of a kernel without file; default: this machine's

    [[module]]                  # as many as there are, in load order
    name, address, size         # as /proc/modules or kldstat(8) has them
    file, symbols               # as above, at most one of them
    sections                    # of a Linux file: what --sections understands
    state                       # Live (the default), Loading, Unloading

Every error is a ManifestError with its line.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import ManifestError

STATES = ("Live", "Loading", "Unloading")
MAX_MANIFEST = 64 << 20

_SYMBOL = re.compile(r"(?:0x)?(?P<address>[0-9a-fA-F]{1,16}) (?P<rest>[A-Za-z?] \S+)")
_NAME = re.compile(r"[^\s\0\[\]/]+")
_TYPES = {
    "name": str,
    "file": str,
    "symbols": str,
    "sections": str,
    "state": str,
    "byteorder": str,
    "address": int,
    "size": int,
    "relocate": int,
    "bits": int,
    "machine": int,
}
_KEYS = {
    "kernel": (
        *("file", "symbols", "address", "size", "relocate"),
        *("bits", "byteorder", "machine"),
    ),
    "module": ("name", "file", "symbols", "sections", "address", "size", "state"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """The kernel or a module, as the manifest describes it."""

    name: str
    line: int
    """Where the entry begins."""
    file_line: int
    """Where its file is named."""
    file: Path | None = None
    symbols: bytes = b""
    """Lines of kallsyms, without a module's name."""
    sections: Path | None = None
    address: int | None = None
    size: int | None = None
    relocation: int = 0
    state: str = "Live"


@dataclass(frozen=True, slots=True)
class Description:
    """A whole manifest."""

    kernel: Entry
    modules: tuple[Entry, ...]
    format: ElfFormat
    """The image's, unless the kernel is a file."""


def parse_description(text: str, path: Path) -> Description:
    """The description that *text* holds; files in it are relative to *path*'s folder.

    Raises ManifestError.
    """
    return _Parser(text, path).description()


class _Parser:
    def __init__(self, text: str, path: Path) -> None:
        self._path = path
        self._lines = list(_structure(text))

    def description(self) -> Description:
        text = "\n".join(line for line, _ in self._lines)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self._syntax_error(str(error))
        except RecursionError:
            self._error(1, "nested too deeply")
        for key in document:
            if key not in _KEYS:
                line = self._find(rf"\[*\s*{re.escape(key)}\b", 0)
                self._error(line, f"unknown {key!r}: only [kernel] and [[module]]")
        kernel, modules = document.get("kernel"), document.get("module", [])
        if not isinstance(kernel, dict):
            self._error(1, "describes no [kernel]")
        if not isinstance(modules, list) or not all(
            isinstance(m, dict) for m in modules
        ):
            self._error(self._find(r"\[?\s*module", 0), "modules are [[module]]")
        head = self._find(r"\[\s*kernel\s*\]", 0)
        fmt = self._format(kernel, head)
        entries = [self._entry("kernel", kernel, head, fmt)]
        line = 0
        for module in modules:
            line = self._find(r"\[\[\s*module\s*\]\]", line)
            entries.append(self._entry("module", module, line, fmt))
        self._check_together(entries)
        return Description(entries[0], tuple(entries[1:]), fmt)

    def _error(self, line: int, reason: str) -> NoReturn:
        raise ManifestError(str(self._path), f"line {line}", reason)

    def _syntax_error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end.*)\)", message)
        reason, line = (match[1], match[2]) if match else (message, None)
        self._error(int(line or len(self._lines)), reason)

    def _find(self, pattern: str, after: int) -> int:
        # The number of the first line behind *after* that begins so; else *after*.
        compiled = re.compile(r"\s*" + pattern)
        for number, (line, is_text) in enumerate(self._lines, 1):
            if number > after and not is_text and compiled.match(line):
                return number
        return max(after, 1)

    def _entry(
        self, kind: str, table: Mapping[str, Any], head: int, fmt: ElfFormat
    ) -> Entry:
        def line_of(key: str) -> int:
            return self._find(rf"[\"']?{re.escape(key)}[\"']?\s*=", head)

        for key, value in table.items():
            if key not in _KEYS[kind]:
                allowed = ", ".join(_KEYS[kind])
                self._error(line_of(key), f"unknown key {key!r}: it may be {allowed}")
            if type(value) is not _TYPES[key]:
                word = "an integer" if _TYPES[key] is int else "a string"
                self._error(line_of(key), f"{key} is not {word}")
        file = self._path.parent / table["file"] if "file" in table else None
        if file and "symbols" in table:
            self._error(line_of("symbols"), "both file and symbols")
        name = "kernel" if kind == "kernel" else table.get("name")
        if name is None and file is not None:
            name = file.name.split(".ko", 1)[0].replace("-", "_")
        if name is None:
            self._error(head, "a module without a name")
        if not _NAME.fullmatch(name):
            self._error(line_of("name"), f"no name of a module: {name!r}")
        if table.get("state", "Live") not in STATES:
            states = ", ".join(STATES)
            self._error(line_of("state"), f"no state of a module: it may be {states}")
        self._check_range(table, fmt, line_of("address"), line_of("size"))
        return Entry(
            name,
            head,
            line_of("file"),
            file,
            self._symbols(table.get("symbols", ""), line_of("symbols"), fmt),
            self._path.parent / table["sections"] if "sections" in table else None,
            table.get("address"),
            table.get("size"),
            table.get("relocate", 0),
            table.get("state", "Live"),
        )

    def _check_range(
        self, table: Mapping[str, Any], fmt: ElfFormat, address_at: int, size_at: int
    ) -> None:
        address, size = table.get("address", 0), table.get("size", 1)
        if not 0 <= address < 1 << fmt.bits:
            self._error(address_at, f"address {address:#x} has not {fmt.bits} bits")
        if size < 1:
            self._error(size_at, f"size {size} is not positive")
        if address + size > 1 << fmt.bits:
            self._error(size_at, f"size {size:#x} reaches beyond the address space")

    def _symbols(self, text: str, line: int, fmt: ElfFormat) -> bytes:
        # A multi-line string begins on the line behind its quotes.
        if self._lines[line - 1][0].rstrip().endswith(("'''", '"""')):
            line += 1
        lines = []
        for number, symbol in enumerate(text.splitlines(), line):
            if not symbol.strip() or symbol.lstrip().startswith("#"):
                continue
            match = _SYMBOL.fullmatch(symbol.strip())
            if match is None:
                self._error(
                    number, f"not an address, a letter and a name: {symbol[:120]!r}"
                )
            if int(match["address"], 16) >> fmt.bits:
                self._error(number, f"an address of more than {fmt.bits} bits")
            lines.append(f"{match['address'].zfill(16)} {match['rest']}")
        return "".join(line + "\n" for line in lines).encode(errors="surrogateescape")

    def _format(self, kernel: Mapping[str, Any], head: int) -> ElfFormat:
        native = ElfFormat.native()
        bits, byteorder = kernel.get("bits", 64), kernel.get("byteorder", sys.byteorder)
        known: dict[Any, Literal[32, 64]] = {32: 32, 64: 64}
        orders: dict[Any, Literal["little", "big"]] = {"little": "little", "big": "big"}
        if bits not in known:
            self._error(self._find(r"bits\s*=", head), "bits may be 32 or 64")
        if byteorder not in orders:
            self._error(
                self._find(r"byteorder\s*=", head), "byteorder may be little or big"
            )
        machine = kernel.get("machine", native.machine)
        if type(machine) is not int or machine >> 16:
            self._error(self._find(r"machine\s*=", head), "machine is no e_machine")
        return ElfFormat(known[bits], orders[byteorder], machine)

    def _check_together(self, entries: list[Entry]) -> None:
        names: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in names:
                self._error(
                    entry.line,
                    f"a second {entry.name!r}: the first is in line "
                    f"{names[entry.name].line}",
                )
            names[entry.name] = entry
        placed = sorted(
            (e.address, e.size, e)
            for e in entries
            if e.address is not None and e.size is not None
        )
        for (address, size, low), (next_, _, high) in pairwise(placed):
            if next_ < address + size:
                self._error(
                    high.line,
                    f"{high.name} at {next_:#x} lies within {low.name}, which ends at "
                    f"{address + size:#x}",
                )


def _structure(text: str) -> Iterator[tuple[str, bool]]:
    # Each line, and whether it lies within a multi-line string: such lines may look
    # like anything.
    quotes = ""
    for line in text.split("\n"):
        yield line, bool(quotes)
        at = 0
        while at >= 0:
            if quotes:
                at = line.find(quotes, at)
                quotes = quotes if at < 0 else ""
                at = at + 3 if at >= 0 else -1
            else:
                found = [i for q in ('"""', "'''") if (i := line.find(q, at)) >= 0]
                at = min(found, default=-1)
                quotes = line[at : at + 3] if at >= 0 else ""
                at = at + 3 if at >= 0 else -1
