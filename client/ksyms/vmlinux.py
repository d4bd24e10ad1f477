"""Reads BTF from where kernels keep it: a bare file, or the .BTF section of an ELF."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from ksyms.btf import Btf
from ksyms.errors import BtfError


def read_btf(path: str | Path) -> bytes:
    """The bytes of the BTF in the file *path*. Raises OSError and BtfError."""
    data = Path(path).read_bytes()
    return _section(data, str(path)) if data.startswith(b"\x7fELF") else data


def load_btf(path: str | Path, *, base: Btf | None = None, name: str) -> Btf:
    """The BTF in the file *path*, split on *base* when given.

    *name* is that of its kernel ("vmlinux") or module; errors name the file.
    Raises OSError and BtfError.
    """
    try:
        return Btf.from_bytes(read_btf(path), base=base, name=name)
    except BtfError as error:
        raise BtfError(str(path), error.offset, error.reason) from None


def _section(data: bytes, path: str) -> bytes:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(BytesIO(data)).get_section_by_name(".BTF")
        content = section.data() if section else None
    except (ELFError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BtfError(path, 0, f"not a whole ELF file: {error}") from error
    if not isinstance(content, bytes):
        raise BtfError(path, 0, "an ELF file without a .BTF section")
    return content
