"""ELF's own names (System V gABI, chapters 4 and 5), and a file's section headers.

For the image path, where pyelftools would cost 60 ms at every start.
"""

from __future__ import annotations

import struct

from ksyms.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import Literal

    Data = bytes | mmap.mmap

SHT_NULL, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_DYNSYM = 0, 2, 3, 8, 11
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_UNDEF, SHN_LORESERVE, SHN_XINDEX = 0, 0xFF00, 0xFFFF
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2
ET_REL, ET_EXEC = 1, 2
EM_ARM, EM_AARCH64, EM_RISCV = 40, 183, 243

# Symbol types (st_info & 15) and bindings (st_info >> 4).
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = range(5)
STT_COMMON, STT_TLS, STT_GNU_IFUNC = 5, 6, 10
STB_LOCAL, STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 0, 1, 2, 10
STV_INTERNAL, STV_HIDDEN = 1, 2

_COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
)


class Section:
    """A section header: the fields of ElfN_Shdr, and the section's name."""

    __slots__ = (
        "name", "sh_addr", "sh_entsize", "sh_flags", "sh_info", "sh_link",
        "sh_name", "sh_offset", "sh_size", "sh_type",
    )  # fmt: skip

    def __init__(self, fields: tuple[int, ...]) -> None:
        (
            self.sh_name, self.sh_type, self.sh_flags, self.sh_addr, self.sh_offset,
            self.sh_size, self.sh_link, self.sh_info, _, self.sh_entsize,
        ) = fields  # fmt: skip
        self.name = ""


class ElfFile:
    """The headers of an ELF file of either class and byte order.

    Raises ImageError where *data* is no ELF file or its headers contradict it; *path*
    is what messages call it.
    """

    def __init__(self, data: Data, path: str) -> None:
        self.data = data
        self.path = path
        if data[:4] != b"\x7fELF":
            raise self.error(_what_it_is(data[:64]))
        if len(data) < (64 if data[4:5] == b"\x02" else 52):
            raise self.error(f"truncated: {len(data)} bytes do not hold an ELF header")
        elf_class, byte_order = data[4], data[5]
        if elf_class not in (1, 2) or byte_order not in (1, 2):
            raise self.error(f"no ELF of class {elf_class}, byte order {byte_order}")
        self.bits = 32 * elf_class
        self.byteorder: Literal["little", "big"] = (
            "little" if byte_order == 1 else "big"
        )
        prefix = "<" if byte_order == 1 else ">"
        word = "Q" if self.bits == 64 else "I"
        (
            self.e_type, self.e_machine, _, _, _, shoff, _, _, _, _,
            shentsize, shnum, shstrndx,
        ) = struct.unpack_from(f"{prefix}HHI3{word}I6H", data, 16)  # fmt: skip
        record = struct.Struct(f"{prefix}II4{word}II2{word}")
        self.sections = self._read_sections(record, shoff, shentsize, shnum, shstrndx)

    def error(self, reason: str) -> ImageError:
        """The error to raise for this file."""
        return ImageError(self.path, reason)

    def extent(self, section: Section, what: str) -> tuple[int, int]:
        """Where *section* starts and ends in the data; *what* is for the message.

        Raises ImageError where that is beyond the end of the file.
        """
        start, end = section.sh_offset, section.sh_offset + section.sh_size
        if end > len(self.data):
            raise self.error(
                f"truncated: {what} lies at {start:#x}-{end:#x}, beyond the end of the"
                f" file ({len(self.data):#x})"
            )
        return start, end

    def _read_sections(
        self, record: struct.Struct, shoff: int, shentsize: int, shnum: int, strndx: int
    ) -> list[Section]:
        if shoff == 0:
            raise self.error("no section headers, so no symbol table")
        if shentsize != record.size:
            raise self.error(f"e_shentsize is {shentsize}, not {record.size}")
        if shoff + record.size <= len(self.data) and (
            shnum == 0 or strndx == SHN_XINDEX
        ):
            # More than 65,279 sections: the null section header has the counts.
            null = Section(record.unpack_from(self.data, shoff))
            shnum = shnum or null.sh_size
            strndx = null.sh_link if strndx == SHN_XINDEX else strndx
        end = shoff + shnum * record.size
        if end > len(self.data):
            raise self.error(
                f"truncated: section headers lie at {shoff:#x}-{end:#x}, beyond the end"
                f" of the file ({len(self.data):#x})"
            )
        found = record.iter_unpack(self.data[shoff:end])
        sections = [Section(fields) for fields in found]
        # Names only help nm's letters: where they are damaged, sections have none.
        if strndx < len(sections) and sections[strndx].sh_type == SHT_STRTAB:
            start, size = sections[strndx].sh_offset, sections[strndx].sh_size
            names = self.data[start : start + min(size, 1 << 24)]
            for section in sections:
                name = names[section.sh_name : section.sh_name + 256]
                section.name = name.partition(b"\0")[0].decode("latin-1")
        return sections


def _what_it_is(start: bytes) -> str:
    if not start:
        return "the file is empty"
    if start.startswith(_COMPRESSED):
        return "not an ELF file: it is compressed, decompress it first"
    return "not an ELF file"
