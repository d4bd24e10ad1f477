"""Records what the BSDs' own headers say; run it as a module, with ziglang installed.

    python -m tests.bsd.record > FILE

FILE is tests/data/bsd_headers.json. ziglang (PyPI) compiles for the BSDs and brings
their headers; the numbers are read from object files, for nothing that is made here can
run.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

HERE = Path(__file__).resolve().parent
TARGETS = {
    "freebsd": [
        *("x86_64-freebsd.13.2", "x86_64-freebsd.14.0", "x86_64-freebsd.15.0"),
        *("aarch64-freebsd.14.0", "x86-freebsd.14.0"),
    ],
    "netbsd": ["x86_64-netbsd.10.1", "x86-netbsd.10.1", "sparc64-netbsd.10.1"],
}

Facts = dict[str, list[int]]
"""Of a constant or a request its value, of a structure or a field offset and size."""

# struct fact of fact.h; the values are those of the target.
_NAME, _NUMBERS = 48, "QQ"


@cache
def recorded(target: str) -> Facts:
    """What was recorded of *target*."""
    path = HERE.parent / "data" / "bsd_headers.json"
    found: Facts = json.loads(path.read_text())[target]
    return found


def compile_facts(system: str, target: str) -> bytes:
    """The object file that zig makes of SYSTEM.c for *target*."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "facts.o"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-Wall", "-Werror"]
        source = HERE / f"{system}.c"
        subprocess.run(
            [*compiler, "-target", target, "-c", source, "-o", output], check=True
        )
        return output.read_bytes()


def facts(object_file: bytes) -> Facts:
    """The table that *object_file* defines."""
    elf = ELFFile(io.BytesIO(object_file))
    symtab = elf.get_section_by_name(".symtab")
    assert isinstance(symtab, SymbolTableSection)
    (symbol,) = symtab.get_symbol_by_name("facts") or []
    data = elf.get_section(symbol["st_shndx"]).data()
    data = data[symbol["st_value"] :][: symbol["st_size"]]
    numbers = struct.Struct(("<" if elf.little_endian else ">") + _NUMBERS)
    found: Facts = {}
    for at in range(0, len(data), _NAME + numbers.size):
        name = data[at : at + _NAME].rstrip(b"\0").decode()
        value, size = numbers.unpack_from(data, at + _NAME)
        found[name] = [value, size] if size else [value]
    return found


def record() -> dict[str, Facts]:
    """The facts of every target."""
    return {
        target: facts(compile_facts(system, target))
        for system, targets in TARGETS.items()
        for target in targets
    }


if __name__ == "__main__":
    lines = (f' "{target}": {json.dumps(found)}' for target, found in record().items())
    print("{", ",\n".join(lines), "}", sep="\n")
