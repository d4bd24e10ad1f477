"""Lays linker files out as one ksyms image: header, .symtab, .strtab.

The layout is that of FreeBSD's sys/dev/ksyms/ksyms.c (struct ksyms_hdr, ksyms_add,
ksyms_emit), to the byte. Pure: same input, same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ksymsfs.elf import (
    ELFOSABI_FREEBSD,
    ET,
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    SHT,
    ElfFormat,
)
from ksymsfs.errors import ImageTooLargeError
from ksymsfs.linker import LinkerFile

MAX_STRINGS = 0xFFFFFFFF

# The implicit NUL of the C initialiser is part of the 28 bytes.
SHSTRTAB = b"\0.symtab\0.strtab\0.shstrtab\0\0"


def header_size(fmt: ElfFormat) -> int:
    """sizeof(struct ksyms_hdr), the offset of .symtab: 464 in ELF64, 304 in ELF32."""
    size = fmt.ehsize + 2 * fmt.phentsize + 4 * fmt.shentsize + len(SHSTRTAB)
    return -(-size // fmt.wordsize) * fmt.wordsize


def string_size(files: Sequence[LinkerFile]) -> int:
    """The bytes of all string tables of *files*.

    Raises ImageTooLargeError where they exceed the 4 GiB that st_name can address.
    """
    size = sum(len(file.strtab) for file in files)
    if size > MAX_STRINGS:
        raise ImageTooLargeError(size, MAX_STRINGS, "string tables")
    return size


def image_size(files: Sequence[LinkerFile], fmt: ElfFormat) -> int:
    """The size in bytes of the image of *files*: the size pass of ksyms_open."""
    syms = sum(len(f.symtab) for f in files) * fmt.symentsize
    return header_size(fmt) + syms + sum(len(f.strtab) for f in files)


def image_header(
    fmt: ElfFormat,
    symsize: int,
    strsize: int,
    *,
    osabi: int = ELFOSABI_FREEBSD,
    text: tuple[int, int] = (0, 0),
    data: tuple[int, int] = (0, 0),
    info: int | None = None,
    shstralign: int = 0,
) -> bytes:
    """struct ksyms_hdr, for tables of *symsize* and *strsize* bytes.

    The rest is what illumos knows better: address and size of the kernel's *text* and
    *data*, the count of local symbols for sh_info (FreeBSD's is that of all), and the
    alignment of .shstrtab.
    """
    phoff = fmt.ehsize
    shoff = phoff + 2 * fmt.phentsize
    shstroff = shoff + 4 * fmt.shentsize
    symoff = header_size(fmt)
    header = b"".join(
        [
            fmt.ehdr(
                osabi=osabi,
                type_=ET.EXEC,
                phoff=phoff,
                phnum=2,
                shoff=shoff,
                shnum=4,
                shstrndx=3,
            ),
            fmt.phdr(type_=PT_LOAD, flags=PF_R | PF_X, vaddr=text[0], memsz=text[1]),
            fmt.phdr(
                type_=PT_LOAD, flags=PF_R | PF_W | PF_X, vaddr=data[0], memsz=data[1]
            ),
            fmt.shdr(),
            fmt.shdr(
                name=1,
                type_=SHT.SYMTAB,
                offset=symoff,
                size=symsize,
                link=2,
                info=symsize // fmt.symentsize if info is None else info,
                align=fmt.wordsize,
                entsize=fmt.symentsize,
            ),
            fmt.shdr(
                name=9, type_=SHT.STRTAB, offset=symoff + symsize, size=strsize, align=1
            ),
            fmt.shdr(
                name=17,
                type_=SHT.STRTAB,
                offset=shstroff,
                size=len(SHSTRTAB),
                align=shstralign,
            ),
            SHSTRTAB,
        ]
    )
    return header.ljust(symoff, b"\0")


def build_image(files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
    """The image of *files*, in their order.

    Each file's tables are copied whole, with st_name moved up by the bytes of string
    table that precede its own (ksyms_add). Raises ImageTooLargeError as `string_size`
    does.
    """
    symsize = sum(len(f.symtab) for f in files) * fmt.symentsize
    strsize = string_size(files)
    header = image_header(fmt, symsize, strsize)
    symtabs, stroff = [], 0
    for file in files:
        symtab = np.ascontiguousarray(file.symtab)
        if stroff:
            # As bytes: numpy would copy the fields one by one.
            symtab = symtab.view(np.uint8).copy().view(symtab.dtype)
            symtab["st_name"] += stroff
        symtabs.append(symtab.data)
        stroff += len(file.strtab)
    return b"".join([header, *symtabs, *(file.strtab for file in files)])
