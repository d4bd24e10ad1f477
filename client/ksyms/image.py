"""Reads the symbol table of an ELF image, in place: columns over its bytes.

Any ELF file with a .symtab or .dynsym will do: a ksymsfs image, FreeBSD's, NetBSD's
and illumos' /dev/ksyms, a vmlinux; both classes and byte orders (System V gABI,
chapters 4 and 5). Nothing is decoded before it is asked for: a symbol is an index.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from bisect import bisect_right

from ksyms.elf import (
    ET_EXEC,
    NO_PLACE,
    SHN_COMMON,
    SHN_UNDEF,
    SHN_XINDEX,
    SHT_DYNSYM,
    SHT_STRTAB,
    SHT_SYMTAB,
    Section,
)
from ksyms.errors import ImageError, RestrictedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from ksyms.symbol import Symbol

DEFAULT_IMAGE = "/dev/ksyms"

# Kernel names end at 512 bytes (KSYM_NAME_LEN), mangled ones rarely pass 4096.
_NAME_MAX = 65536

# So many names are searched for before an index of all names is made, and so many
# places of a name among the strings are looked at in one search.
_SEARCHES, _HITS = 16, 32


class LinkerFile:
    """A kernel or module whose symbols the image holds.

    *name* is "kernel" or the module's; *address* and *size* (bytes) tell where it
    lies in memory, and are 0 where the image does not say.
    """

    __slots__ = ("address", "name", "size")

    def __init__(self, name: str, address: int, size: int) -> None:
        self.name = name
        self.address = address
        self.size = size

    def __repr__(self) -> str:
        return f"<LinkerFile {self.name} at {self.address:#x} size {self.size:#x}>"

    @property
    def module(self) -> str | None:
        """What Symbol.module is: None for the kernel."""
        return None if self.name == "kernel" else self.name


class Image:
    """The symbol table of an ELF image, column by column.

    The columns st_name ... st_size are sequences of int, one item a symbol, in the
    order of the file. Raises ImageError where *data* is no ELF image, has no symbol
    table, or contradicts itself, and RestrictedError where the kernel put 0 in place
    of every address. *path* is for messages.
    """

    def __init__(self, data: bytes | memoryview, path: str = "<bytes>") -> None:
        self.path = path
        self._data = data if isinstance(data, bytes) else bytes(data)
        self._parse_header()
        self.sections = self._parse_sections()
        symtab = self._symbol_table()
        self.is_dynamic = symtab.sh_type == SHT_DYNSYM
        self._strtab = self._string_table(symtab)
        self._parse_symbols(symtab)
        self._find_linker_files()
        self._names: dict[str, int | list[int]] | None = None
        self._searches = 0
        self._letters: dict[tuple[int, int, int], str] = {}
        if self._is_restricted():
            raise RestrictedError(
                f"{path}: every address is 0: the kernel hid them from whoever made the"
                " image (give that process CAP_SYSLOG, or have root lower"
                " kernel.kptr_restrict)"
            )

    def __len__(self) -> int:
        return self._count

    # -- the parts of the file

    def _error(self, reason: str) -> ImageError:
        return ImageError(self.path, reason)

    def _parse_header(self) -> None:
        data = self._data
        if data[:4] != b"\x7fELF":
            hint = ""
            if data[:2] in (b"\x1f\x8b", b"BZ") or data[:4] in (
                b"\xfd7zX", b"\x28\xb5\x2f\xfd",
            ):  # fmt: skip
                hint = " (it is compressed: decompress it first)"
            elif data[:16].strip(b"0123456789abcdef") and data[16:17] == b" ":
                hint = " (a kallsyms table? mkksyms --kallsyms makes an image of it)"
            raise self._error(f"not an ELF file{hint}" if data else "the file is empty")
        if len(data) < (64 if data[4:5] == b"\x02" else 52):
            raise self._error(f"truncated: {len(data)} bytes do not hold an ELF header")
        if data[4] not in (1, 2) or data[5] not in (1, 2):
            raise self._error(f"unknown ELF class {data[4]} or byte order {data[5]}")
        self.bits = 32 * data[4]
        self.byteorder = "little" if data[5] == 1 else "big"
        self._prefix = "<" if data[5] == 1 else ">"
        word = "Q" if self.bits == 64 else "I"
        (
            self.e_type, self.e_machine, _, _, _, self._shoff, _, _, _, _,
            self._shentsize, self._shnum, self._shstrndx,
        ) = struct.unpack_from(f"{self._prefix}HHI3{word}I6H", data, 16)  # fmt: skip

    def _parse_sections(self) -> list[Section]:
        word = "Q" if self.bits == 64 else "I"
        record = struct.Struct(f"{self._prefix}II4{word}II2{word}")
        if self._shoff == 0:
            raise self._error("no section headers, so no symbol table")
        if self._shentsize != record.size:
            raise self._error(
                f"e_shentsize is {self._shentsize} where {record.size} is the size"
                " of a section header"
            )
        shoff, size = self._shoff, len(self._data)
        shnum = self._shnum
        if shoff + record.size <= size and 0 in (shnum, self._shstrndx + 1 & 0xFFFF):
            # More than 65,279 sections: the counts are in the null section header.
            null = Section(record.unpack_from(self._data, shoff))
            shnum = shnum or null.sh_size
            if self._shstrndx == SHN_XINDEX:
                self._shstrndx = null.sh_link
        end = shoff + shnum * record.size
        if end > size:
            raise self._error(
                f"truncated: section headers lie at {shoff:#x}-{end:#x}, beyond the end"
                f" of the file ({size:#x})"
            )
        found = memoryview(self._data)[shoff:end]
        sections = [Section(fields) for fields in record.iter_unpack(found)]
        self._name_sections(sections)
        return sections

    def _name_sections(self, sections: list[Section]) -> None:
        # Names only help nm's letters: without them every section stays nameless.
        if not self._shstrndx < len(sections):
            return
        table = sections[self._shstrndx]
        if table.sh_type != SHT_STRTAB:
            return
        names = self._data[table.sh_offset : table.sh_offset + table.sh_size]
        for section in sections:
            name, _, _ = names[section.sh_name : section.sh_name + 256].partition(b"\0")
            section.name = name.decode("utf-8", "surrogateescape")

    def _symbol_table(self) -> Section:
        for wanted in (SHT_SYMTAB, SHT_DYNSYM):
            for section in self.sections:
                if section.sh_type == wanted:
                    return section
        raise self._error("no symbol table (.symtab or .dynsym): is it stripped?")

    def _contents(self, section: Section, what: str) -> memoryview:
        start, end = section.sh_offset, section.sh_offset + section.sh_size
        if end > len(self._data):
            raise self._error(
                f"truncated: {what} lies at {start:#x}-{end:#x}, beyond the end of the"
                f" file ({len(self._data):#x})"
            )
        return memoryview(self._data)[start:end]

    def _string_table(self, symtab: Section) -> bytes:
        link = symtab.sh_link
        if not 0 < link < len(self.sections):
            raise self._error(f"the symbol table links to section {link}, which is not")
        section = self.sections[link]
        if section.sh_type != SHT_STRTAB:
            raise self._error(f"section {link}, the symbols' names, is no string table")
        return bytes(self._contents(section, "the string table"))

    def _parse_symbols(self, symtab: Section) -> None:
        entsize = 24 if self.bits == 64 else 16
        if symtab.sh_entsize != entsize:
            raise self._error(
                f"sh_entsize of the symbol table is {symtab.sh_entsize}, not {entsize}"
            )
        if symtab.sh_size % entsize:
            raise self._error(
                f"sh_size of the symbol table, {symtab.sh_size}, is no multiple of"
                f" {entsize}"
            )
        raw = self._contents(symtab, "the symbol table")
        self._count = symtab.sh_size // entsize

        def column(code: Literal["H", "I", "Q"], first: int, step: int) -> memoryview:
            if self.byteorder == sys.byteorder:
                return raw.cast(code)[first::step]
            swapped = array(code, raw.tobytes())[first::step]
            swapped.byteswap()
            return memoryview(swapped)

        if self.bits == 64:
            self.st_name = column("I", 0, 6)
            self.st_info, self.st_other = raw[4::24], raw[5::24]
            self.st_shndx = column("H", 3, 12)
            self.st_value, self.st_size = column("Q", 1, 3), column("Q", 2, 3)
        else:
            self.st_name = column("I", 0, 4)
            self.st_value, self.st_size = column("I", 1, 4), column("I", 2, 4)
            self.st_info, self.st_other = raw[12::16], raw[13::16]
            self.st_shndx = column("H", 7, 8)

    def _find_linker_files(self) -> None:
        # A ksymsfs image says where each linker file starts: an STT_FILE symbol with a
        # size, which ordinary ones lack. The debug layout repeats them as globals.
        info = self.st_info.tobytes()
        starts = [i for i in _indexes(info, b"\x04") if self.st_size[i]]
        self.has_linker_files = bool(starts)
        files: dict[str, LinkerFile] = {}
        self.run_starts: list[int] = []
        self.run_files: list[LinkerFile] = []
        if starts:
            starts += [i for i in _indexes(info, b"\x14") if self.st_size[i]]
            for start in sorted(starts):
                name = self.name(start)
                if name not in files:
                    files[name] = LinkerFile(
                        name, self.st_value[start], self.st_size[start]
                    )
                self.run_starts.append(start + 1)
                self.run_files.append(files[name])
        else:
            # FreeBSD copies every linker file's table whole, each with a null symbol;
            # the kernel is the first, the names of the modules are not in the image.
            nulls = [i for i in _indexes(info, b"\0") if self.is_null(i)] or [0]
            self.run_starts = [0, *nulls[1:]]
            names = ["kernel", *(f"#{n}" for n in range(2, len(nulls) + 1))]
            self.run_files = [LinkerFile(name, 0, 0) for name in names]

    @property
    def linker_files(self) -> tuple[LinkerFile, ...]:
        """The linker files in their order, () where the image tells none apart."""
        if not self.has_linker_files and len(self.run_files) < 2:
            return ()
        return tuple(dict.fromkeys(self.run_files))

    @property
    def runs(self) -> Iterator[tuple[int, int, LinkerFile]]:
        """Start and end index of each run of symbols, and whose they are."""
        ends = [*self.run_starts[1:], self._count]
        for start, end, file in zip(self.run_starts, ends, self.run_files, strict=True):
            # What lies before the next linker-file symbol is that file's null symbol.
            while end > start and not self.is_place(end - 1):
                end -= 1
            yield start, end, file

    def is_null(self, index: int) -> bool:
        """Whether this is a null symbol, the first one of a linker file's table."""
        # st_name is moved to the file's own strings, st_value to its own base.
        st_name = self.st_name[index]
        return (
            self.st_shndx[index] == SHN_UNDEF
            and self.st_size[index] == 0
            and self.st_other[index] == 0
            and self._strtab[st_name : st_name + 1] == b"\0"
        )

    def _is_restricted(self) -> bool:
        return (
            self.e_type == ET_EXEC
            and not any(self.st_value)
            and any(map(self.is_place, range(self._count)))
        )

    # -- one symbol

    def is_place(self, index: int) -> bool:
        """Whether a symbol names an address: not undefined, a file, a section ..."""
        return (
            self.st_shndx[index] not in (SHN_UNDEF, SHN_COMMON)
            and self.st_info[index] & 15 not in NO_PLACE
        )

    def name(self, index: int) -> str:
        """The name of a symbol, bytes that are not UTF-8 surrogate-escaped."""
        start = self.st_name[index]
        end = self._strtab.find(b"\0", start, start + _NAME_MAX)
        if end < 0:
            raise self._error(
                f"symbol {index}: no name at offset {start:#x} of the string table"
            )
        return self._strtab[start:end].decode("utf-8", "surrogateescape")

    def find_name(self, name: str) -> list[int]:
        """The indexes of all places that have this name, in the table's order."""
        try:
            wanted = name.encode("utf-8", "surrogateescape") + b"\0"
        except UnicodeEncodeError:
            return []
        if not name or "\0" in name:
            return []
        if self._names is None:
            if self._searches < _SEARCHES:
                self._searches += 1
                found = self._search_name(wanted)
                if found is not None:
                    return [i for i in found if self.is_place(i)]
            self._names = self._index_names()
        indexed = self._names.get(name, [])
        return [indexed] if isinstance(indexed, int) else list(indexed)

    def _search_name(self, wanted: bytes) -> list[int] | None:
        # A search of the strings, then of the st_name column, both in C. A name may
        # also be the end of another (linkers merge tails); None when there are too
        # many of those.
        column = array("I", self.st_name.tobytes()).tobytes()
        found = []
        for hits, start in enumerate(_indexes(self._strtab, wanted)):
            if hits == _HITS:
                return None
            pattern = start.to_bytes(4, sys.byteorder)
            found += [at // 4 for at in _indexes(column, pattern) if at % 4 == 0]
        return sorted(found)

    def _index_names(self) -> dict[str, int | list[int]]:
        names: dict[str, int | list[int]] = {}
        for index in filter(self.is_place, range(self._count)):
            name = self.name(index)
            first = names.setdefault(name, index)
            if first is not index:
                if isinstance(first, int):
                    names[name] = [first, index]
                else:
                    first.append(index)
        return names

    def module(self, index: int) -> str | None:
        """The module that a symbol belongs to, None for the kernel."""
        run = bisect_right(self.run_starts, index) - 1
        return self.run_files[run].module if run >= 0 else None

    def nm_type(self, index: int) -> str:
        """The letter that nm(1), or the kernel's own table, gives a symbol."""
        key = (self.st_info[index], self.st_other[index], self.st_shndx[index])
        letter = self._letters.get(key)
        if letter is None:
            from ksyms.nm_type import elf_letter, kallsyms_letter

            letter = self._letters[key] = (
                kallsyms_letter(*key)
                if self.has_linker_files
                else elf_letter(key[0], key[2], self.sections)
            )
        return letter

    def symbol(self, index: int) -> Symbol:
        """The symbol at *index* of the table."""
        from ksyms.symbol import Symbol

        info = self.st_info[index]
        return Symbol(
            self.name(index),
            self.st_value[index],
            self.st_size[index],
            info & 15,
            info >> 4,
            self.nm_type(index),
            self.module(index),
        )


def _indexes(column: bytes, value: bytes) -> Iterator[int]:
    at = column.find(value)
    while at >= 0:
        yield at
        at = column.find(value, at + 1)


def read_image(path: str | os.PathLike[str] | None = None) -> Image:
    """The image at *path*: by default $KSYMS, else /dev/ksyms; "-" is standard input.

    Raises ImageError where it is none, OSError where it cannot be read.
    """
    name = os.fspath(path) if path is not None else default_image()
    if name == "-":
        return Image(sys.stdin.buffer.read(), "standard input")
    with open(name, "rb", buffering=0) as file:
        return Image(file.read(), name)


def default_image() -> str:
    """The image that is read where none was named: $KSYMS, else /dev/ksyms."""
    return os.environ.get("KSYMS") or DEFAULT_IMAGE
