"""Why libbpf would not open an object, besides its externs and maps.

libbpf 1.8: bpf_object__elf_collect(), bpf_object__init_btf(), btf_fixup_datasec().
"""

from __future__ import annotations

from collections.abc import Iterator

from ksyms.bpf.elf import SHF_EXECINSTR, BpfElf, Section
from ksyms.bpf.externs import KCONFIG, KSYMS, Failure
from ksyms.bpf.instruction import LD_IMM64
from ksyms.bpf.maps import FIXED, LEGACY, data_family, visible_objects
from ksyms.bpf.programs import Programs
from ksyms.btf import Btf
from ksyms.btf_types import Kind
from ksyms.elf import STB_LOCAL, STT_FUNC, STT_SECTION

_SUBPROGRAMS = ".text"
# .addr_space.1 is an arena's data.
_REFERABLE = frozenset({".maps", ".addr_space.1", ".jumptables"})
_NEED_BTF = frozenset(
    {".maps", ".struct_ops", ".struct_ops.link", "?.struct_ops", "?.struct_ops.link"}
)


def section_failures(elf: BpfElf, btf: Btf | None) -> Iterator[Failure]:
    """What it does not accept of the sections, before it looks for externs."""
    for section in elf.sections:
        if section.name == LEGACY:
            yield Failure(
                "-ENOTSUP",
                f"elf: legacy map definitions in '{LEGACY}' section are not supported "
                "by libbpf v1.0+",
            )
        elif section.flags & SHF_EXECINSTR and section.name != _SUBPROGRAMS:
            for program in _static_functions(elf, section):
                yield Failure(
                    "-ENOTSUP",
                    f"sec '{section.name}': program '{program}' is static and not "
                    "supported",
                )
    names = {section.name for section in elf.sections}
    if btf is None and names & _NEED_BTF:
        yield Failure("-ENOENT", "BTF is required, but is missing or corrupted.")


def _static_functions(elf: BpfElf, section: Section) -> Iterator[str]:
    for symbol in elf.symbols:
        is_function = symbol.shndx == section.shndx and symbol.type == STT_FUNC
        if is_function and symbol.binding == STB_LOCAL:
            yield symbol.name


def data_failures(elf: BpfElf, btf: Btf) -> Iterator[Failure]:
    """Where the types of global data do not fit the file; libbpf only debugs these."""
    objects = visible_objects(elf)
    for datasec in map(btf.__getitem__, btf.ids(Kind.DATASEC)):
        name = datasec.name
        if name in (KCONFIG, KSYMS):
            continue
        section = elf.section(name)
        if not datasec.size and (section is None or not section.size):
            error = "-ENOENT" if section is None else "0"
            yield Failure(
                "-ENOENT",
                f"sec '{name}': failed to determine size from ELF: size 0, err {error}",
            )
            continue
        for var in (btf[variable.type_id] for variable in btf.variables(datasec)):
            if var.kind is not Kind.VAR:
                yield Failure("-EINVAL", f"sec '{name}': unexpected non-VAR type found")
                break
            if btf.linkage(var) not in FIXED and var.name not in objects:
                yield Failure(
                    "-ENOENT",
                    f"sec '{name}': failed to find ELF symbol for VAR '{var.name}'",
                )
                break


# bpf_program__record_reloc()
def reference_failures(elf: BpfElf, programs: Programs) -> Iterator[Failure]:
    """The variables of programs that are in no section for data."""
    known = {
        s.shndx
        for s in elf.sections
        if s.flags & SHF_EXECINSTR or data_family(s) or s.name in _REFERABLE
    }
    for target, offset, number in elf.relocations:
        if number >= len(elf.symbols):
            continue
        symbol = elf.symbols[number]
        if not 0 < symbol.shndx < len(elf.sections) or symbol.shndx in known:
            continue
        program = programs.at(target, offset)
        if program is None:
            continue
        if elf.sections[target].data[offset : offset + 1] != bytes([LD_IMM64]):
            continue
        where = elf.sections[symbol.shndx].name
        name = where if symbol.type == STT_SECTION else symbol.name
        yield Failure(
            "-4005",
            f"prog '{program.name}': bad map relo against '{name}' in section "
            f"'{where}'",
        )
