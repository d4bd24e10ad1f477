"""The externs of a BPF object, collected as libbpf does at open.

libbpf 1.8, bpf_object__collect_externs(): object-wide, whatever programs are loaded.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ksyms.bpf.elf import BpfElf, ElfSymbol
from ksyms.btf import Btf
from ksyms.btf_types import EXTERN, Kind, Type
from ksyms.elf import STB_GLOBAL, STB_WEAK, STT_NOTYPE

KCONFIG, KSYMS = ".kconfig", ".ksyms"
_ERRNO = {"-ENOENT": -2, "-ESRCH": -3, "-EINVAL": -22}

ExternKind = Literal["typeless", "var", "func", "kconfig"]


class Extern(NamedTuple):
    """A symbol that the object leaves to the loader."""

    name: str
    kind: ExternKind
    """typeless: any address of that name; var, func: the kernel's BTF has the type;
    kconfig: a value of the kernel's configuration, no symbol at all."""
    is_weak: bool
    btf_id: int
    """Id of the VAR or FUNC in the object's BTF."""
    type_id: int
    """Id of its type without modifiers; 0 for a typeless one."""
    symbol: int
    """Index in the ELF symbol table."""

    @property
    def essential_name(self) -> str:
        """The name to look for: that of a function loses its ``___flavour``."""
        return essential_name(self.name) if self.kind == "func" else self.name


class Failure(NamedTuple):
    """A refusal in libbpf's words."""

    result: str
    """The errno as libbpf returns it: "-EINVAL"."""
    message: str


def essential_name(name: str) -> str:
    """*name* without its ``___flavour``: bpf_core_essential_name_len()."""
    for at in range(len(name) - 5, -1, -1):
        if name[at] != "_" and name[at + 1 : at + 4] == "___" and name[at + 4] != "_":
            return name[: at + 1]
    return name


def collect_externs(
    elf: BpfElf, btf: Btf | None
) -> tuple[tuple[Extern, ...], tuple[Failure, ...]]:
    """The externs in libbpf's order (.kconfig first, then by name), and its refusals.

    libbpf stops at the first failure; here the rest is collected all the same.
    """
    externs: list[Extern] = []
    failures: list[Failure] = []
    section_names: set[str] = set()
    sections = _extern_sections(btf) if btf else {}
    for symbol in elf.symbols:
        if not _is_extern(symbol):
            continue
        found = _extern(symbol, btf, sections)
        if isinstance(found, Failure):
            failures.append(found)
        else:
            externs.append(found)
            section_names.add(KCONFIG if found.kind == "kconfig" else KSYMS)
    externs.sort(key=_libbpf_order)
    if btf and not failures:
        failures.extend(_undefined_members(btf, externs, section_names))
    return tuple(externs), tuple(failures)


def _libbpf_order(extern: Extern) -> tuple[bool, bytes]:
    return (
        extern.kind != "kconfig",
        extern.name.encode("utf-8", "surrogateescape"),
    )


def _is_extern(symbol: ElfSymbol) -> bool:
    return (
        symbol.shndx == 0
        and symbol.binding in (STB_GLOBAL, STB_WEAK)
        and symbol.type == STT_NOTYPE
        and symbol.name != ""
    )


# Which DATASEC lists a type: the first one wins.
def _extern_sections(btf: Btf) -> dict[int, Type]:
    sections: dict[int, Type] = {}
    for datasec in map(btf.__getitem__, btf.ids(Kind.DATASEC)):
        for variable in btf.variables(datasec):
            sections.setdefault(variable.type_id, datasec)
    return sections


def _extern(
    symbol: ElfSymbol, btf: Btf | None, sections: dict[int, Type]
) -> Extern | Failure:
    name = symbol.name
    found = _find_extern_type(btf, name)
    if btf is None or isinstance(found, str):
        assert isinstance(found, str)
        return Failure(
            found, f"failed to find BTF for extern '{name}': {_ERRNO[found]}"
        )
    section = sections.get(found.id)
    if section is None:
        return Failure(
            "-ENOENT",
            f"failed to find BTF for extern '{name}' [{found.id}] section: -2",
        )
    kind: ExternKind
    type_id = 0
    if section.name == KCONFIG:
        if found.kind is Kind.FUNC:
            return Failure(
                "-ENOTSUP",
                f"extern function {name} is unsupported under {KCONFIG} section",
            )
        if (failure := _kconfig_failure(btf, name, found.type_id)) is not None:
            return failure
        kind = "kconfig"
        type_id = found.type_id
    elif section.name == KSYMS:
        type_id = btf.skip_modifiers(found.type_id).id
        kind = "func" if found.kind is Kind.FUNC else "var" if type_id else "typeless"
    else:
        return Failure("-ENOTSUP", f"unrecognized extern section '{section.name}'")
    return Extern(
        name, kind, symbol.binding == STB_WEAK, found.id, type_id, symbol.number
    )


# find_kcfg_type(): a bool, an integer, a tristate, or a string.
def _kconfig_failure(btf: Btf, name: str, type_id: int) -> Failure | None:
    if not (size := btf.size_of(type_id)):
        why = -22 if size is None else 0
        text = f"failed to resolve size of extern (kcfg) '{name}': {why}"
        return Failure("-EINVAL", text)
    type = btf.skip_modifiers(type_id)
    if type.kind is Kind.ARRAY:
        array = btf.array(type)
        type = btf.skip_modifiers(array.type_id)
        known = array.nelems > 0 and type.kind is Kind.INT and type.size == 1
        known = known and not btf.encoding(type).is_bool
    elif type.kind is Kind.INT:
        sizes = (1,) if btf.encoding(type).is_bool else (1, 2, 4, 8)
        known = type.size in sizes
    else:
        is_enum = type.kind is Kind.ENUM64 or (
            type.kind is Kind.ENUM and type.size == 4
        )
        known = is_enum and type.name == "libbpf_tristate"
    if known:
        return None
    return Failure("-ENOTSUP", f"extern (kcfg) '{name}': type is unsupported")


# find_extern_btf_id(): the first VAR or FUNC of that name decides.
def _find_extern_type(btf: Btf | None, name: str) -> Type | str:
    if btf is None:
        return "-ESRCH"
    for type in btf.lookup_all(name):
        if type.kind in (Kind.VAR, Kind.FUNC):
            return type if btf.linkage(type) == EXTERN else "-EINVAL"
    return "-ENOENT"


# What BTF declares must be there in ELF too.
def _undefined_members(
    btf: Btf, externs: list[Extern], section_names: set[str]
) -> list[Failure]:
    names = {extern.name for extern in externs}
    return [
        Failure(
            "-ESRCH",
            f"failed to find extern definition for BTF {type.kind.word} '{type.name}'",
        )
        for section_name in (KSYMS, KCONFIG)
        if section_name in section_names
        for section in btf.lookup_all(section_name, Kind.DATASEC)[-1:]
        for type in (btf[v.type_id] for v in btf.variables(section))
        if type.name not in names
    ]
