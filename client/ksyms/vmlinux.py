"""Reads BTF from where kernels keep it: a bare file, or the .BTF section of an ELF."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from ksyms.btf import Btf
from ksyms.errors import BtfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ksyms.elf import Data

_KERNEL = "/sys/kernel/btf/vmlinux"


def read_btf(path: str | Path) -> Data:
    """The bytes of the BTF in the file *path*. Raises OSError and BtfError."""
    data = _mapped(path) or Path(path).read_bytes()
    return _section(data, str(path)) if data[:4] == b"\x7fELF" else data


def load_btf(path: str | Path, *, base: Btf | None = None, name: str) -> Btf:
    """The BTF in the file *path*, split on *base* when given.

    *name* is that of its kernel ("vmlinux") or module; errors name the file.
    Raises OSError and BtfError.
    """
    try:
        return Btf(read_btf(path), base=base, name=name)
    except BtfError as error:
        raise BtfError(str(path), error.offset, error.reason) from None


def _mapped(path: str | Path) -> mmap.mmap | None:
    # The types of the kernel that runs cannot change, as a file can that is mapped;
    # since Linux 6.16 mapping them takes a tenth of the time of reading.
    if str(path) == _KERNEL:
        with suppress(OSError, ValueError), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return mmap.mmap(
                file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ
            )
    return None


def _section(data: Data, path: str) -> bytes:
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
