"""A described kernel: edit the manifest, and the next open sees the change."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import ManifestError, SourceChangingError, SourceError
from ksymsfs.linker import LinkerFile, linker_file_symbol, with_linker_file_symbol
from ksymsfs.sources import Source
from ksymsfs.sources.description import (
    MAX_MANIFEST,
    Description,
    Entry,
    parse_description,
)
from ksymsfs.sources.elf_files import (
    ModuleFile,
    has_linux_rules,
    place_freebsd_module,
    place_kernel,
    place_linux_module,
)
from ksymsfs.sources.files import (
    Fingerprint,
    files_fingerprint,
    read_file,
    source_errors,
)
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import Module
from ksymsfs.sources.objectfile import ObjectFile, read_object
from ksymsfs.sources.section_addresses import section_files


class Manifest(Source):
    """The source that the manifest at *path* makes, with the files that it names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Fingerprint = ()
        self._files: list[Path] = []

    @property
    def name(self) -> str:
        return str(self._path)

    def fingerprint(self) -> Hashable:
        seen = files_fingerprint([self._path])
        if seen != self._seen:
            self._files, self._seen = [], seen
            try:
                description = self._read()
            except SourceError:
                pass  # linker_files will say so
            else:
                self._files = list(_files_of(description))
        return seen + files_fingerprint(self._files)

    def linker_files(self) -> Sequence[LinkerFile]:
        """The kernel and its modules, as the manifest now describes them.

        Raises ManifestError with the line for a manifest that describes no kernel, and
        SourceChangingError while one of its modules is Loading or Unloading.
        """
        description = self._read()
        for module in description.modules:
            if module.state != "Live":
                raise SourceChangingError(
                    str(self._path),
                    f"line {module.line}: module {module.name} is {module.state}",
                )
        objects = self._read_objects(description)
        kernel = objects.get("kernel")
        self._format = kernel.format if kernel else description.format
        linux = has_linux_rules(list(objects.values()))
        files = []
        for entry in (description.kernel, *description.modules):
            try:
                files.append(self._place(entry, objects, linux=linux))
            except ManifestError:
                raise
            except (SourceError, OSError) as error:
                raise ManifestError(
                    str(self._path), f"line {entry.file_line}", str(error)
                ) from error
        if len(objects) < len(files):
            # Tables copied whole do not say whose they are; next to some that do, they
            # have to.
            files = [with_linker_file_symbol(f, self._format) for f in files]
        return files

    def _read(self) -> Description:
        data = read_file(self._path, MAX_MANIFEST)
        try:
            text = data.decode().replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ManifestError(str(self._path), f"line {line}", "not UTF-8") from None
        return parse_description(text, self._path)

    def _read_objects(self, description: Description) -> dict[str, ObjectFile]:
        objects: dict[str, ObjectFile] = {}
        for entry in (description.kernel, *description.modules):
            if entry.file is None:
                continue
            try:
                with source_errors(entry.file):
                    found = read_object(entry.file)
            except SourceError as error:
                raise ManifestError(
                    str(self._path), f"line {entry.file_line}", str(error)
                ) from error
            expected = next((o.format for o in objects.values()), found.format)
            if found.format != expected:
                raise ManifestError(
                    str(self._path),
                    f"line {entry.file_line}",
                    f"{entry.file} is for another machine than the files before it",
                )
            objects[entry.name] = found
        return objects

    def _place(
        self, entry: Entry, objects: dict[str, ObjectFile], *, linux: bool
    ) -> LinkerFile:
        assert self._format is not None
        found = objects.get(entry.name)
        is_kernel = entry.name == "kernel"
        if found is None:
            return _described(entry, self._format, is_kernel=is_kernel)
        if is_kernel:
            file = place_kernel(found, entry.relocation, linux=linux)
            return _moved(file, entry)
        where = ModuleFile(found.path, entry.address, entry.size)
        if linux or entry.sections:
            return place_linux_module(entry.name, where, found, entry.sections)
        file = place_freebsd_module(where, found, objects.get("kernel"))
        return replace(file, name=entry.name)


def _described(entry: Entry, fmt: ElfFormat, *, is_kernel: bool) -> LinkerFile:
    if not entry.symbols:
        address, size = entry.address or 0, entry.size or 1
        symtab = np.zeros(2, fmt.sym_dtype)
        symtab[1:2] = linker_file_symbol(fmt, 1, address, size)
        return LinkerFile(
            entry.name, address, size, symtab, b"\0" + entry.name.encode() + b"\0"
        )
    if is_kernel:
        (file,) = kallsyms_linker_files(entry.symbols, [], fmt, name=entry.name)
        return _moved(file, entry)
    text = entry.symbols.replace(b"\n", b"\t[%s]\n" % entry.name.encode())
    modules = None
    if entry.address is not None and entry.size is not None:
        modules = [Module(entry.name, entry.size, entry.state, entry.address)]
    return kallsyms_linker_files(text, modules, fmt, name=entry.name)[-1]


def _moved(file: LinkerFile, entry: Entry) -> LinkerFile:
    # The range that the manifest gives goes before the one that the symbols tell.
    address = file.address if entry.address is None else entry.address
    size = file.size if entry.size is None else entry.size
    if file.sections is not None:
        return replace(file, address=address, size=size)
    symtab = file.symtab.copy()
    symtab["st_value"][1], symtab["st_size"][1] = address, size
    return replace(file, address=address, size=size, symtab=symtab)


def _files_of(description: Description) -> Iterator[Path]:
    for entry in (description.kernel, *description.modules):
        if entry.file is not None:
            yield entry.file
        if entry.sections is not None:
            yield from section_files(entry.sections, entry.name)
