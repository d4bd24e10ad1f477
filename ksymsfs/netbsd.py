"""NetBSD's ksyms(4): the image, and how its ioctls look a name up.

sys/kern/kern_ksyms.c (addsymtab, ksyms_hdr_init, ksyms_take_snapshot, findsym) of a
kernel without KDTRACE_HOOKS, which drops what is of no use; without its cap of 98304
symbols, which a Linux kernel exceeds.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from ksymsfs.elf import (
    ELFOSABI_NONE,
    ET,
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    SHF,
    SHN,
    SHT,
    STB,
    STT,
    ElfFormat,
    SymArray,
)
from ksymsfs.errors import ImageTooLargeError, RefusedError, SourceError
from ksymsfs.image import string_size
from ksymsfs.ioctl import READ, WRITE, Ioctl
from ksymsfs.linker import LinkerFile, name_lengths, name_offsets
from ksymsfs.sources.objectfile import parse_object

NETBSD_VERSION = 1000000000
"""__NetBSD_Version__ of 10.0, the description of the note."""

PAGE = 4096
SHBSS = 5
"""Where every symbol that is not absolute says it is."""

_NAMES = [".note.netbsd.ident", ".symtab", ".strtab", ".shstrtab", ".bss", ".SUNW_ctf"]
_SHSTRTAB = (b"\0" + b"".join(n.encode() + b"\0" for n in _NAMES)).ljust(64, b"\0")

# Sorting wants the names one by one. Real ones share few tails, if any.
MAX_NAMES = 512 << 20


def build_netbsd_image(files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
    """The image of *files* as NetBSD lays it out, without CTF.

    Raises SourceError when there are no symbols (ksyms(4): ENXIO), ImageTooLargeError
    where the names cannot be sorted or addressed.
    """
    strsize = string_size(files)
    tables = []
    stroff = 0
    for file in files:
        symtab = _sorted(_useful(file), file)
        symtab["st_shndx"][symtab["st_shndx"] != SHN.ABS] = SHBSS
        symtab["st_name"] += stroff
        tables.append(symtab)
        stroff += len(file.strtab)
    symtab = np.concatenate(tables, dtype=fmt.sym_dtype)
    if not len(symtab):
        raise SourceError("kernel", "no symbols are loaded")
    header = _header(fmt, symtab.nbytes, strsize)
    return b"".join([header, symtab.tobytes(), *(file.strtab for file in files)])


def _useful(file: LinkerFile) -> SymArray:
    symtab = file.symtab
    types = symtab["st_info"] & 15
    keep = (symtab["st_name"] != 0) & (symtab["st_shndx"] != SHN.UNDEF)
    keep &= types != STT.FILE
    # What an old a.out or gcc left behind.
    odd = types == STT.NOTYPE
    absolute = np.isin(symtab["st_name"], name_offsets(file.strtab, b"*ABS*"))
    keep &= ~(odd & absolute & (symtab["st_value"] == 0))
    compiled = np.isin(symtab["st_name"], name_offsets(file.strtab, b"gcc2_compiled."))
    keep &= ~(odd & compiled)
    useful: SymArray = symtab[keep]
    return useful


def _sorted(symtab: SymArray, file: LinkerFile) -> SymArray:
    # Globals first, then the rest; within each by name, as strcmp(3) has it.
    starts = symtab["st_name"].astype(np.int64)
    lengths = name_lengths(file.strtab, starts)
    if (total := int(lengths.sum())) > MAX_NAMES:
        raise ImageTooLargeError(total, MAX_NAMES, f"the names of {file.name}")
    strtab = file.strtab
    names = [
        strtab[start:end]
        for start, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    ]
    not_global = (symtab["st_info"] >> 4 != STB.GLOBAL).tolist()
    order = sorted(range(len(names)), key=lambda i: (not_global[i], names[i]))
    return symtab[np.array(order, np.intp)]


def _header(fmt: ElfFormat, symsize: int, strsize: int) -> bytes:
    # struct ksyms_hdr: 656 bytes in ELF64, 452 in ELF32.
    order = ">" if fmt.byteorder == "big" else "<"
    phoff = fmt.ehsize
    shoff = phoff + fmt.phentsize
    shstroff = shoff + 7 * fmt.shentsize
    noteoff = shstroff + len(_SHSTRTAB)
    note = struct.pack(f"{order}III8sI", 7, 4, 1, b"NetBSD", NETBSD_VERSION)
    symoff = noteoff + len(note)
    stroff = symoff + symsize
    everything = (1 << fmt.bits) - 1
    return b"".join(
        [
            fmt.ehdr(
                osabi=ELFOSABI_NONE,
                type_=ET.EXEC,
                phoff=phoff,
                phnum=1,
                shoff=shoff,
                shnum=7,
                shstrndx=4,
            ),
            fmt.phdr(type_=PT_LOAD, flags=PF_R | PF_W | PF_X, memsz=everything),
            fmt.shdr(),
            fmt.shdr(
                name=_name(".note.netbsd.ident"),
                type_=SHT.NOTE,
                offset=noteoff,
                size=len(note),
                align=4,
            ),
            # sh_info is the count of all symbols, as the kernel has it.
            fmt.shdr(
                name=_name(".symtab"),
                type_=SHT.SYMTAB,
                offset=symoff,
                size=symsize,
                link=3,
                info=symsize // fmt.symentsize,
                align=fmt.wordsize,
                entsize=fmt.symentsize,
            ),
            fmt.shdr(
                name=_name(".strtab"),
                type_=SHT.STRTAB,
                offset=stroff,
                size=strsize,
                align=1,
            ),
            fmt.shdr(
                name=_name(".shstrtab"),
                type_=SHT.STRTAB,
                offset=shstroff,
                size=len(_SHSTRTAB),
                align=1,
            ),
            fmt.shdr(
                name=_name(".bss"),
                type_=SHT.NOBITS,
                flags=SHF.ALLOC | SHF.EXECINSTR,
                size=everything,
                align=PAGE,
            ),
            fmt.shdr(
                name=_name(".SUNW_ctf"),
                type_=SHT.PROGBITS,
                offset=stroff + strsize,
                link=2,
                align=1,
            ),
            _SHSTRTAB,
            note,
        ]
    )


def _name(name: str) -> int:
    return _SHSTRTAB.index(name.encode() + b"\0")


class NameTable:
    """The names of an image, searched as NetBSD's findsym searches its tables.

    The tables follow each other in the image, each with its globals first: its order
    is the order of the search.
    """

    def __init__(self, image: bytes) -> None:
        parsed = parse_object(Path("image"), BytesIO(image))
        self.format = parsed.format
        self._symtab, self._strtab = parsed.symtab, parsed.strtab
        self._is_global = self._symtab["st_info"] >> 4 == STB.GLOBAL
        lengths = name_lengths(self._strtab, self._symtab["st_name"])
        self.longest = int(lengths.max(initial=0)) + 1
        """Bytes of the longest name, with its NUL: ksyms_maxlen."""

    def find(self, name: bytes, *, only_global: bool) -> SymArray:
        """The record of the first symbol of that name, as an array of one.

        Raises RefusedError ENOENT where there is none.
        """
        found = np.isin(self._symtab["st_name"], name_offsets(self._strtab, name))
        if only_global:
            found &= self._is_global
        indexes = np.flatnonzero(found)
        if not len(indexes):
            shown = name[:80].decode(errors="backslashreplace")
            raise RefusedError(errno.ENOENT, f"no symbol {shown!r}", quiet=True)
        return self._symtab[indexes[:1]]


@lru_cache(maxsize=1)
def _names(image: bytes) -> NameTable:
    # An image knows its hash from the second call on, and that it is itself.
    return NameTable(image)


# sys/ksyms.h. The numbers' directions, by Linux's code: each may also be BSD's.
OKIOCGSYMBOL, OKIOCGVALUE, KIOCGSIZE, KIOCGVALUE, KIOCGSYMBOL = 1, 2, 3, 4, 5
_ONE_WAY, _BOTH_WAYS = (READ, WRITE), (READ | WRITE,)


def netbsd_ioctl(call: Ioctl) -> bytes:
    """What the kernel is to copy to the caller: the structure with its result.

    KIOCGVALUE and KIOCGSYMBOL look the name that the structure points at up in the
    symbols of *now*, whatever was opened; the old pair puts the result where the
    structure's second pointer points. Values are those of global symbols alone.
    Raises RefusedError: ENOTTY, ENOENT (no such name), ENAMETOOLONG (longer than any
    name that there is), EFAULT (a bad pointer).
    """
    if not call.is_ours:
        raise call.unknown()
    if call.command == KIOCGSIZE and call.size == 4 and call.direction in _ONE_WAY:
        answer = struct.pack("=I", len(call.image) & 0xFFFFFFFF)
        if call.direction == READ:
            return answer
        call.memory.write(call.argument, answer)
        return b""
    names = _names(call.current())
    pointer = _pointer_size(call, names.format)
    structure = call.memory.read(call.argument, call.size)
    name_at = _word(structure[:pointer])
    name = call.memory.read_string(name_at, names.longest)
    only_global = call.command in (OKIOCGVALUE, KIOCGVALUE)
    symbol = names.find(name, only_global=only_global)
    value = int(symbol["st_value"][0])
    if call.command == KIOCGVALUE:
        return structure[:-8] + struct.pack("=Q", value)
    if call.command == KIOCGSYMBOL:
        return structure[:pointer] + symbol.tobytes()
    result = symbol.tobytes()
    if call.command == OKIOCGVALUE:
        result = value.to_bytes(8, sys.byteorder)
        result = result[:pointer] if sys.byteorder == "little" else result[-pointer:]
    call.memory.write(_word(structure[pointer:]), result)
    # The kernel copies the structure back only because it takes BSD's number so.
    return structure if call.direction == READ else b""


def _pointer_size(call: Ioctl, fmt: ElfFormat) -> int:
    # sizeof(void *) of the caller, which the size of its structure tells. A uint64_t
    # is aligned to 4 bytes on i386, and to 8 elsewhere.
    sizes = {
        OKIOCGSYMBOL: (_ONE_WAY, {16: 8, 8: 4}),
        OKIOCGVALUE: (_ONE_WAY, {16: 8, 8: 4}),
        KIOCGVALUE: (_BOTH_WAYS, {16: 8, 12: 4}),
        KIOCGSYMBOL: (_BOTH_WAYS, {8 + fmt.symentsize: 8, 4 + fmt.symentsize: 4}),
    }
    directions, known = sizes.get(call.command, ((), {}))
    if call.direction not in directions or call.size not in known:
        raise call.unknown()
    return known[call.size]


def _word(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)
