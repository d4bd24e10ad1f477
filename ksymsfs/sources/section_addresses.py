"""Where Linux loaded its modules' sections: /sys/module, or a text saved of it."""

from __future__ import annotations

import re
from pathlib import Path

from ksymsfs.errors import SourceFormatError
from ksymsfs.sources.files import MAX_MODULES, read_file

_LINE = re.compile(
    r"(?:.*/)?(?P<module>[^/\s]+)(?:/sections/|\s+)(?P<section>[^/\s:]+)"
    r"(?::\s*|\s+)(?P<address>0x[0-9a-fA-F]{1,16})"
)


def section_addresses(path: Path, module: str) -> dict[str, int]:
    """The address of each section of *module*, by name; empty where none is known.

    *path* is /sys/module or a copy of that folder, or a text with one section a line,
    either as ``grep -r . /sys/module/*/sections/`` prints it or ``MODULE SECTION
    ADDRESS``. Raises SourceFormatError for a line that is neither.
    """
    if path.is_dir():
        return _from_folder(path / module / "sections")
    return _from_text(path, module)


def section_files(path: Path, module: str) -> list[Path]:
    """The files whose change can change `section_addresses`."""
    if not path.is_dir():
        return [path]
    folder = path / module / "sections"
    return [folder, *sorted(folder.iterdir())] if folder.is_dir() else [path]


def _from_folder(folder: Path) -> dict[str, int]:
    addresses: dict[str, int] = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        text = file.read_text(errors="backslashreplace").strip()
        try:
            addresses[file.name] = int(text, 16)
        except ValueError:
            raise SourceFormatError(
                str(file), "line 1", f"not an address: {text[:80]!r}"
            ) from None
    return addresses


def _from_text(path: Path, module: str) -> dict[str, int]:
    addresses: dict[str, int] = {}
    text = read_file(path, MAX_MODULES).decode(errors="backslashreplace")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise SourceFormatError(
                str(path),
                f"line {number}",
                "not a section (/sys/module/NAME/sections/SECTION:ADDRESS, or "
                f"NAME SECTION ADDRESS): {line[:120]!r}",
            )
        if match["module"] != module:
            continue
        if match["section"] in addresses:
            raise SourceFormatError(
                str(path),
                f"line {number}",
                f"a second address of {match['section']} of {module}",
            )
        addresses[match["section"]] = int(match["address"], 16)
    return addresses
