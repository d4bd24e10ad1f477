"""The letters of nm(1): from a ksymsfs image's records, and from any ELF file's."""

from __future__ import annotations

from collections.abc import Sequence

from ksyms.elf import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHT_NOBITS,
    STB_GLOBAL,
    STB_GNU_UNIQUE,
    STB_LOCAL,
    STB_WEAK,
    STT_COMMON,
    STT_GNU_IFUNC,
    STT_OBJECT,
    STV_HIDDEN,
    Section,
)

# st_shndx of a ksymsfs image: 1 .text, 2 .rodata, 3 .data, 4 .bss; where the debug
# layout needs more of them, they repeat in this order.
_KALLSYMS_SECTIONS = "trdb"


def kallsyms_letter(st_info: int, st_other: int, st_shndx: int) -> str:
    """The letter of /proc/kallsyms that ksymsfs put into a record.

    Weak symbols are W or V, lower-case when hidden; letters without an ELF meaning
    travel in st_other, as the letter's low five bits times 8.
    """
    bind, type_ = st_info >> 4, st_info & 15
    if bind == STB_GNU_UNIQUE:
        return "u"
    if type_ == STT_GNU_IFUNC:
        return "i"
    if bind == STB_WEAK:
        letter = "v" if type_ == STT_OBJECT else "w"
        return letter if st_other & 3 == STV_HIDDEN else letter.upper()
    if st_other >> 3:
        # '?' is the one sign among the letters: 0x3f & 0x1f == 0x1f.
        code = st_other >> 3
        if code == 0x1F:
            return "?"
        return chr((0x60 if bind == STB_LOCAL else 0x40) | code)
    if st_shndx == SHN_UNDEF:
        return "U"
    letter = "a" if st_shndx == SHN_ABS else _KALLSYMS_SECTIONS[(st_shndx - 1) % 4]
    return letter.upper() if bind == STB_GLOBAL else letter


def elf_letter(st_info: int, st_shndx: int, sections: Sequence[Section]) -> str:
    """The letter that binutils' nm gives a symbol (BFD's bfd_decode_symclass)."""
    bind, type_ = st_info >> 4, st_info & 15
    is_object = type_ in (STT_OBJECT, STT_COMMON)
    if st_shndx == SHN_COMMON:
        return "C"
    if st_shndx == SHN_UNDEF:
        if bind == STB_WEAK:
            return "v" if is_object else "w"
        return "U"
    if type_ == STT_GNU_IFUNC:
        return "i"
    if bind == STB_WEAK:
        return "V" if is_object else "W"
    if bind == STB_GNU_UNIQUE:
        return "u"
    if bind not in (STB_LOCAL, STB_GLOBAL):
        return "?"
    letter = _section_letter(st_shndx, sections)
    return letter.upper() if bind == STB_GLOBAL else letter


def _section_letter(st_shndx: int, sections: Sequence[Section]) -> str:
    # A section that BFD makes no section of (tables, or none at all) counts as
    # absolute there.
    if not st_shndx < min(len(sections), SHN_LORESERVE):
        return "a"
    section = sections[st_shndx]
    flags = section.sh_flags
    if section.sh_type in (0, 2, 3, 4, 9, 17, 18) and not flags & SHF_ALLOC:
        return "a"
    if flags & SHF_EXECINSTR:
        return "t"
    if section.sh_type == SHT_NOBITS:
        return "b"
    if flags & SHF_ALLOC:
        return "d" if flags & SHF_WRITE else "r"
    if section.name.startswith((".debug", ".zdebug", ".line", ".stab", ".gdb_index")):
        return "N"
    return "?" if flags & SHF_WRITE else "n"
