"""A kernel's symbols from its ELF files: the kernel and its modules."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from ksymsfs.elf import ELFOSABI_FREEBSD, ElfFormat
from ksymsfs.errors import RestrictedError, SourceFormatError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import Source, freebsd_linker, linux_linker
from ksymsfs.sources.files import (
    MAX_KALLSYMS,
    MAX_MODULES,
    files_fingerprint,
    read_file,
    source_errors,
)
from ksymsfs.sources.modules import parse_modules, require_settled
from ksymsfs.sources.objectfile import ObjectFile, read_object
from ksymsfs.sources.section_addresses import section_addresses, section_files

SYSFS, PROC_MODULES = Path("/sys/module"), Path("/proc/modules")


class ModuleFile(NamedTuple):
    """A module's file, and where it is loaded as kldstat(8) or /proc/modules says."""

    path: Path
    address: int | None = None
    size: int | None = None


class LinuxFacts(NamedTuple):
    """What Linux decided at boot and at load, which its files cannot tell."""

    relocation: int | None = None
    """How far KASLR moved the kernel, in bytes."""
    kallsyms: Path | None = None
    """A saved /proc/kallsyms, whose _stext tells the relocation."""
    modules: Path | None = None
    """A saved /proc/modules."""
    sections: Path | None = None
    """What `section_addresses` reads; None: the /sys/module of this machine."""


class ElfFiles(Source):
    """The source that a kernel's ELF file and its modules' make, in load order.

    By FreeBSD's rules, unless the files are Linux's or *linux* says something.
    """

    def __init__(
        self,
        kernel: Path,
        modules: Sequence[ModuleFile] = (),
        linux: LinuxFacts = LinuxFacts(),  # noqa: B008 (immutable)
    ) -> None:
        self._kernel = kernel
        self._modules = tuple(modules)
        self._linux = linux
        self._by_sections = False

    @property
    def name(self) -> str:
        return str(self._kernel)

    def fingerprint(self) -> Hashable:
        paths = [self._kernel, *(m.path for m in self._modules)]
        paths += [p for p in (self._linux.kallsyms, self._linux.modules) if p]
        if self._by_sections or self._linux.sections:
            for module in self._modules:
                paths += section_files(
                    self._linux.sections or SYSFS, module_name(module.path)
                )
        return files_fingerprint(paths)

    def linker_files(self) -> Sequence[LinkerFile]:
        with source_errors(self._kernel):
            return self._read()

    def _read(self) -> list[LinkerFile]:
        kernel = read_object(self._kernel)
        modules = [read_object(module.path) for module in self._modules]
        for module in modules:
            if module.format != kernel.format:
                raise module.error(
                    f"is {_words(module.format)}, the kernel {_words(kernel.format)}"
                )
        linux = any(self._linux) or has_linux_rules([kernel, *modules])
        linux &= kernel.osabi != ELFOSABI_FREEBSD
        self._by_sections = linux
        relocation = self._linux.relocation
        if linux and relocation is None:
            relocation = self._relocation_from_kallsyms(kernel)
        files = [place_kernel(kernel, relocation or 0, linux=linux)]
        ranges = self._ranges() if linux else {}
        for option, module in zip(self._modules, modules, strict=True):
            if not linux:
                files.append(place_freebsd_module(option, module, kernel))
                continue
            name = module_name(option.path)
            if option.address is None and name in ranges:
                option = ModuleFile(option.path, *ranges[name])
            files.append(place_linux_module(name, option, module, self._linux.sections))
        self._format = kernel.format
        return files

    def _relocation_from_kallsyms(self, kernel: ObjectFile) -> int:
        path = self._linux.kallsyms
        if path is None:
            return 0
        match = re.search(
            rb"^([0-9a-fA-F]+) [A-Za-z] _stext$",
            read_file(path, MAX_KALLSYMS),
            re.MULTILINE,
        )
        if match is None:
            raise SourceFormatError(str(path), "", "has no symbol _stext")
        address = int(match[1], 16)
        if not address:
            raise RestrictedError(
                str(path), "its addresses are 0: the kernel hid them when it was saved"
            )
        return linux_linker.relocation_by(kernel, b"_stext", address)

    def _ranges(self) -> dict[str, tuple[int, int]]:
        path = self._linux.modules
        if path is None:
            # Where sections are this machine's, so are the modules.
            is_here = self._modules and not self._linux.sections
            if not is_here or not PROC_MODULES.exists():
                return {}
            path = PROC_MODULES
        modules = parse_modules(read_file(path, MAX_MODULES), str(path))
        require_settled(modules, str(path))
        return {m.name: (m.address, m.size) for m in modules}


def has_linux_rules(files: Sequence[ObjectFile]) -> bool:
    """Whether some of a kernel's *files* are recognisably Linux's."""
    return any(map(linux_linker.is_linux, files))


def place_kernel(kernel: ObjectFile, relocation: int, *, linux: bool) -> LinkerFile:
    """The kernel by the rules of its system, moved by *relocation* bytes."""
    if linux:
        return linux_linker.kernel_linker_file(kernel, relocation)
    return freebsd_linker.kernel_linker_file(kernel, relocation)


def place_freebsd_module(
    where: ModuleFile, module: ObjectFile, kernel: ObjectFile | None
) -> LinkerFile:
    """The module by FreeBSD's rules; *kernel* is the one that loaded it, if known."""
    if where.address is None:
        raise module.error("has no address: name it as FILE@ADDRESS")
    vimage = kernel is None or freebsd_linker.has_vimage(kernel)
    return freebsd_linker.module_linker_file(
        module, where.address, where.size, vimage=vimage
    )


def place_linux_module(
    name: str, where: ModuleFile, module: ObjectFile, sections: Path | None
) -> LinkerFile:
    """The module by Linux's rules; *sections* None means this machine's."""
    addresses = section_addresses(sections or SYSFS, name)
    if not addresses:
        raise module.error(
            f"{sections or SYSFS} has no section addresses of module {name} "
            "(give them with --sections)"
        )
    known = None
    if where.address is not None and where.size is not None:
        known = where.address, where.size
    return linux_linker.module_linker_file(name, module, addresses, known)


def module_name(path: Path) -> str:
    """The name that Linux gives the module in the file *path*."""
    return path.name.split(".ko", 1)[0].replace("-", "_")


def _words(fmt: ElfFormat) -> str:
    return f"ELF{fmt.bits} {fmt.byteorder}-endian for machine {fmt.machine}"
