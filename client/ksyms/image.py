"""Reads the symbol table of an ELF image, in place: columns over its bytes.

Any ELF file with a .symtab or .dynsym will do: a ksymsfs image, FreeBSD's, NetBSD's
and illumos' /dev/ksyms, a vmlinux; both classes and byte orders. Nothing is decoded
before it is asked for: a symbol is an index.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from itertools import repeat

from ksyms.elf import (
    EM_AARCH64,
    EM_ARM,
    EM_RISCV,
    ET_EXEC,
    SHN_COMMON,
    SHN_UNDEF,
    SHT_DYNSYM,
    SHT_STRTAB,
    SHT_SYMTAB,
    STT_FILE,
    STT_SECTION,
    STT_TLS,
    ElfFile,
    Section,
)
from ksyms.errors import ImageError, RestrictedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    from ksyms.elf import Data

DEFAULT_IMAGE = "/dev/ksyms"

# Symbols whose value is no address of their own.
NO_PLACE = (STT_SECTION, STT_FILE, STT_TLS)

# The kernel's names end at 512 bytes (KSYM_NAME_LEN), mangled ones rarely pass 4096.
_NAME_MAX = 65536
# Names that overlap can be longer, taken together, than the table they stand in; so
# many bytes of them are still taken for a linker's work.
_OVERLAP = 1 << 26


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

    def __init__(self, data: Data, path: str = "<bytes>") -> None:
        self.path = path
        self._elf = elf = ElfFile(data, path)
        self._data = data
        self.bits = elf.bits
        self.sections = elf.sections
        symtab = self._symbol_table()
        self._strings, self._strings_end = self._string_table(symtab)
        self._read_columns(symtab)
        self._find_linker_files()
        self._find_mapping_symbols()
        self._letters = _Letters(
            elf.byteorder, None if self.has_linker_files else self.sections
        )
        if self._is_restricted():
            raise RestrictedError(
                f"{path}: every address is 0: the kernel hid them from whoever made the"
                " image (give that process CAP_SYSLOG, or have root lower"
                " kernel.kptr_restrict)"
            )

    def __len__(self) -> int:
        return self._count

    # -- the tables

    def _symbol_table(self) -> Section:
        for wanted in (SHT_SYMTAB, SHT_DYNSYM):
            for section in self.sections:
                if section.sh_type == wanted:
                    return section
        raise self._elf.error("no symbol table (.symtab or .dynsym): is it stripped?")

    def _string_table(self, symtab: Section) -> tuple[int, int]:
        link = symtab.sh_link
        if not 0 < link < len(self.sections):
            raise self._elf.error(f"the symbols' names are in section {link}: no such")
        if self.sections[link].sh_type != SHT_STRTAB:
            raise self._elf.error(
                f"the symbols' names are in section {link}, which is no string table"
            )
        return self._elf.extent(self.sections[link], "the string table")

    def _read_columns(self, symtab: Section) -> None:
        entsize = 24 if self.bits == 64 else 16
        if symtab.sh_entsize != entsize:
            raise self._elf.error(
                f"sh_entsize of the symbol table is {symtab.sh_entsize}, not {entsize}"
            )
        if symtab.sh_size % entsize:
            raise self._elf.error(
                f"sh_size of the symbol table, {symtab.sh_size}, is no multiple of"
                f" {entsize}"
            )
        start, end = self._elf.extent(symtab, "the symbol table")
        self._count = symtab.sh_size // entsize
        raw = memoryview(self._data)[start:end]

        def column(code: Literal["H", "I", "Q"], first: int, step: int) -> memoryview:
            if self._elf.byteorder == sys.byteorder:
                return raw.cast(code)[first::step]
            from array import array

            swapped = array(code, raw.tobytes())[first::step]
            swapped.byteswap()
            return memoryview(swapped)

        if self.bits == 64:
            self.st_name, self.st_shndx = column("I", 0, 6), column("H", 3, 12)
            self.st_value, self.st_size = column("Q", 1, 3), column("Q", 2, 3)
            self.st_other = raw[5::24]
            info, kinds = slice(start + 4, end, 24), raw.cast("I")[1::6]
        else:
            self.st_name, self.st_shndx = column("I", 0, 4), column("H", 7, 8)
            self.st_value, self.st_size = column("I", 1, 4), column("I", 2, 4)
            self.st_other = raw[13::16]
            info, kinds = slice(start + 12, end, 16), raw.cast("I")[3::4]
        # A copy, since bytes can be searched: 0.2 ms for 120,000 symbols.
        self.st_info: bytes = self._data[info]
        # st_info, st_other and st_shndx taken together, as they lie there.
        self._kinds = kinds

    def _find_linker_files(self) -> None:
        # A ksymsfs image says where each linker file starts: an STT_FILE symbol with a
        # size, which ordinary ones lack. The debug layout repeats them as globals.
        starts = [i for i in indexes(self.st_info, b"\x04") if self.st_size[i]]
        self.has_linker_files = bool(starts)
        self.run_starts: list[int] = []
        self.run_files: list[LinkerFile] = []
        if starts:
            starts += [i for i in indexes(self.st_info, b"\x14") if self.st_size[i]]
            files: dict[str, LinkerFile] = {}
            for start in sorted(starts):
                name = self.name(start)
                if name not in files:
                    where = self.st_value[start], self.st_size[start]
                    files[name] = LinkerFile(name, *where)
                self.run_starts.append(start + 1)
                self.run_files.append(files[name])
        else:
            # FreeBSD copies every linker file's table whole, each with a null symbol;
            # the kernel is the first, the names of the modules are not in the image.
            nulls = list(filter(self.is_null, indexes(self.st_info, b"\0"))) or [0]
            self.run_starts = [0, *nulls[1:]]
            names = ["kernel", *(f"#{n}" for n in range(2, len(nulls) + 1))]
            self.run_files = [LinkerFile(name, 0, 0) for name in names]

    def _find_mapping_symbols(self) -> None:
        # $a, $d, $x.foo ... tell code from data on these machines, and name nothing.
        self.mapping_symbols: frozenset[int] = frozenset()
        if self._elf.e_machine in (EM_ARM, EM_AARCH64, EM_RISCV):
            self.mapping_symbols = frozenset(
                filter(self._is_mapping_symbol, indexes(self.st_info, b"\0"))
            )

    def _is_mapping_symbol(self, index: int) -> bool:
        start = self._strings + self.st_name[index]
        text = self._data[start : min(start + 3, self._strings_end)]
        return text[:1] == b"$" and text[1:2].islower() and text[2:] in (b"\0", b".")

    def _is_restricted(self) -> bool:
        return (
            self._elf.e_type == ET_EXEC
            and not any(self.st_value)
            and any(map(self.is_place, range(self._count)))
        )

    # -- linker files

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

    def name_linker_files(self, listing: str) -> None:
        """Name the linker files of an image that does not, after ksymsfs' listing.

        A line of it is ``id address size symbols name``. A listing of another state
        of the kernel, which is one with other numbers of symbols, names nothing.
        """
        try:
            rows = [line.split(maxsplit=4) for line in listing.splitlines()]
            counts = [int(row[3]) for row in rows]
            files = [LinkerFile(r[4], int(r[1], 0), int(r[2], 0)) for r in rows]
        except (ValueError, IndexError):
            return
        ends = [*self.run_starts[1:], self._count]
        if counts == [b - a for a, b in zip(self.run_starts, ends, strict=True)]:
            self.run_files = files

    def module(self, index: int) -> str | None:
        """The module that a symbol belongs to, None for the kernel."""
        run = bisect_right(self.run_starts, index) - 1
        return self.run_files[run].module if run >= 0 else None

    def modules(self) -> Iterator[str | None]:
        """The module of every symbol, in the table's order."""
        ends = [*self.run_starts, self._count]
        owners = [None, *(file.module for file in self.run_files)]
        for start, end, module in zip([0, *ends], ends, owners, strict=False):
            yield from repeat(module, end - start)

    # -- one symbol

    def is_null(self, index: int) -> bool:
        """Whether this is a null symbol, the first one of a linker file's table."""
        # st_name is moved to the file's own strings, st_value to its own base.
        name = self._strings + self.st_name[index]
        return (
            self.st_shndx[index] == SHN_UNDEF
            and self.st_info[index] == 0
            and self.st_size[index] == 0
            and self.st_other[index] == 0
            and self._data[name : name + 1] == b"\0"
        )

    def is_place(self, index: int) -> bool:
        """Whether a symbol names an address: not undefined, a file, a section ..."""
        return self._has_place(index) and index not in self.mapping_symbols

    def _has_place(self, index: int) -> bool:
        return (
            self.st_shndx[index] not in (SHN_UNDEF, SHN_COMMON)
            and self.st_info[index] & 15 not in NO_PLACE
        )

    def raw_name(self, index: int) -> bytes:
        """The name of a symbol as the bytes that it is."""
        start = self._strings + self.st_name[index]
        end = self._data.find(b"\0", start, min(start + _NAME_MAX, self._strings_end))
        if end < 0:
            raise self._elf.error(
                f"symbol {index} has no name at offset {self.st_name[index]:#x} of the"
                " string table"
            )
        return self._data[start:end]

    def name(self, index: int) -> str:
        """The name of a symbol; bytes that are not UTF-8 are surrogate-escaped.

        Raises ImageError where st_name points to no string.
        """
        return self.raw_name(index).decode("utf-8", "surrogateescape")

    def nm_type(self, index: int) -> str:
        """The letter that nm(1), or the kernel's own table, gives a symbol."""
        return self._letters[self._kinds[index]]

    # -- all of them

    def of_types(self, types: Sequence[int]) -> Iterator[int]:
        """The indexes of the symbols of these STT_* types, whatever their binding."""
        for binding in range(16):
            for type in types:
                yield from indexes(self.st_info, bytes([binding << 4 | type]))

    def unplaced(self) -> Iterator[int]:
        """The indexes of the symbols that name no address: see `is_place`."""
        yield from self.mapping_symbols
        yield from self.of_types(NO_PLACE)
        shndx = self.st_shndx.tobytes()
        for wanted in (SHN_UNDEF, SHN_COMMON):
            for at in indexes(shndx, wanted.to_bytes(2, sys.byteorder)):
                if at % 2 == 0 and self.st_info[at // 2] & 15 not in NO_PLACE:
                    yield at // 2

    @property
    def has_ascii_names(self) -> bool:
        """Whether there is no other byte in the string table."""
        return self._data[self._strings : self._strings_end].isascii()

    def names(self) -> list[str]:
        """The names of all symbols; five times as fast as name() of each.

        Raises ImageError where they overlap to far more than their table holds.
        """
        strings = memoryview(self._data)[self._strings : self._strings_end]
        try:
            names = self._names_in(str(strings, "ascii"))
        except UnicodeDecodeError:
            names = None
        if names is not None:
            return names
        names, room = [], len(strings) + _OVERLAP
        for index in range(self._count):
            names.append(self.name(index))
            room -= len(names[-1])
            if room < 0:
                raise self._elf.error("names overlap to more than they could hold")
        return names

    def _names_in(self, strings: str) -> list[str] | None:
        # As many strings as symbols: the symbols' own, if they follow each other in the
        # table's order, each a NUL behind the one before.
        *names, rest = strings.split("\0")
        if len(names) != self._count or rest:
            return None
        from array import array
        from itertools import accumulate
        from operator import add

        lengths = map(add, map(len, names), repeat(1))
        starts = array("I", accumulate(lengths, initial=0))[:-1]
        return names if starts.tobytes() == self.st_name.tobytes() else None

    def nm_types(self, symbols: Sequence[int]) -> list[str]:
        """The letters of the symbols of these indexes."""
        return list(map(self._letters.__getitem__, take(self._kinds, symbols)))

    def place_names(self) -> list[str]:
        """The names of all symbols, "" for those that name no address."""
        names = self.names()
        for index in self.unplaced():
            names[index] = ""
        return names

    def find_string(self, string: bytes) -> Iterator[int]:
        """The offsets in the string table at which *string* stands."""
        return (
            start - self._strings
            for start in indexes(self._data, string, self._strings, self._strings_end)
        )


class _Letters(dict[int, str]):
    # By st_info, st_other and st_shndx taken together. Those of *sections* are nm(1)'s;
    # without, they are the kernel's own.
    def __init__(
        self, byteorder: Literal["little", "big"], sections: list[Section] | None
    ) -> None:
        super().__init__()
        self._byteorder: Literal["little", "big"] = byteorder
        self._sections = sections

    def __missing__(self, kind: int) -> str:
        from ksyms.nm_type import elf_letter, kallsyms_letter

        info, other, *shndx = kind.to_bytes(4, sys.byteorder)
        st_shndx = int.from_bytes(shndx, self._byteorder)
        letter = self[kind] = (
            kallsyms_letter(info, other, st_shndx)
            if self._sections is None
            else elf_letter(info, st_shndx, self._sections)
        )
        return letter


def take(column: memoryview, symbols: Sequence[int]) -> list[int]:
    """What *column* has at the indexes *symbols*."""
    if isinstance(symbols, range):
        return column[symbols.start : symbols.stop].tolist()
    return [column[i] for i in symbols]


def indexes(
    data: Data, part: bytes, start: int = 0, end: int = sys.maxsize
) -> Iterator[int]:
    """Where in data[start:end] *part* stands, from the left."""
    at = data.find(part, start, end)
    while at >= 0:
        yield at
        at = data.find(part, at + 1, end)


def read_image(path: str | os.PathLike[str] | None = None) -> Image:
    """The image at *path*: by default $KSYMS, else /dev/ksyms; "-" is standard input.

    A capture (see ksyms capture) stands for the image in it, and text of kallsyms for
    the image that mkksyms(1) makes of it. Raises ImageError where it is none of these,
    RestrictedError where all addresses are 0, OSError where it cannot be read.
    """
    name = os.fspath(path) if path is not None else default_image()
    if name == "-":
        return _image_of(sys.stdin.buffer.read(), "standard input")
    if os.path.isdir(name):
        return _capture_image(name)
    with open(name, "rb", buffering=0) as file:
        image = _image_of(file.read(), name)
    if len(image.run_files) > 1 and not image.has_linker_files:
        image.name_linker_files(_listing_beside(name))
    return image


def _image_of(data: bytes, name: str, modules: str | None = None) -> Image:
    if data[:4] != b"\x7fELF":
        from ksyms.kallsyms_text import image_of_text, looks_like_kallsyms

        if looks_like_kallsyms(data[:64]):
            data = image_of_text(data, name, modules)
    return Image(data, name)


def _capture_image(folder: str) -> Image:
    # A capture has the image, or the texts that one can be made of.
    image, text, modules = (
        os.path.join(folder, name) for name in ("ksyms", "kallsyms", "modules")
    )
    if os.path.exists(image):
        return read_image(image)
    if not os.path.exists(text):
        raise ImageError(folder, "a folder with no symbols: not a capture of a kernel")
    with open(text, "rb") as file:
        return _image_of(
            file.read(), text, modules if os.path.exists(modules) else None
        )


def _listing_beside(name: str) -> str:
    # ksymsfs serves snapshots/N, and a listing of the linker files next to snapshots.
    folder = os.path.dirname(os.path.realpath(name))
    if os.path.basename(folder) != "snapshots":
        return ""
    try:
        with open(
            os.path.join(os.path.dirname(folder), "modules"),
            encoding="utf-8",
            errors="surrogateescape",
        ) as listing:
            return listing.read(1 << 20)
    except OSError:
        return ""


def default_image() -> str:
    """The image that is read where none was named: $KSYMS, else /dev/ksyms."""
    return os.environ.get("KSYMS") or DEFAULT_IMAGE
