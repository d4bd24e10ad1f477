"""ELF's own names for what an image holds (System V gABI, chapters 4 and 5)."""

from __future__ import annotations

SHT_NULL, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_DYNSYM = 0, 2, 3, 8, 11
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
SHN_UNDEF, SHN_LORESERVE, SHN_XINDEX = 0, 0xFF00, 0xFFFF
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2
ET_REL, ET_EXEC = 1, 2

# Symbol types (st_info & 15) and bindings (st_info >> 4).
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = range(5)
STT_COMMON, STT_TLS, STT_GNU_IFUNC = 5, 6, 10
STB_LOCAL, STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 0, 1, 2, 10
STV_HIDDEN = 2

# Symbols whose value is no address of their own.
NO_PLACE = (STT_SECTION, STT_FILE, STT_TLS)


class Section:
    """A section header: the fields of ElfN_Shdr, and its name."""

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
