"""Maps declared in section .maps: a variable each, whose type says all of the map.

libbpf 1.8, bpf_object__init_user_btf_map() and parse_btf_map_def().
"""

from __future__ import annotations

from ksyms.bpf.elf import BpfElf
from ksyms.bpf.externs import Failure
from ksyms.bpf.maps import BpfMap, is_static, placed_variables, visible_objects
from ksyms.btf import Btf
from ksyms.btf_types import EXTERN, GLOBAL, Kind, Member, SectionVariable, Type

_SECTION = ".maps"
_INVALID, _UNSUPPORTED = "-EINVAL", "-ENOTSUP"
_PROG_ARRAY, _ARRAY_OF_MAPS, _HASH_OF_MAPS = 3, 12, 13
_PINNINGS = 2  # LIBBPF_PIN_NONE and LIBBPF_PIN_BY_NAME
_ATTRIBUTES = ("type", "max_entries", "map_flags", "numa_node")


def declared_maps(
    elf: BpfElf, btf: Btf
) -> tuple[tuple[BpfMap, ...], tuple[Failure, ...]]:
    """The maps in the order of the section, and what libbpf would not open it for.

    A declaration is read to its end whatever is wrong with it; of each only the first
    fault counts. Raises BtfError where it cannot be followed.
    """
    maps: list[BpfMap] = []
    failures: list[Failure] = []
    objects = visible_objects(elf)
    section = elf.section(_SECTION)
    datasecs = btf.lookup_all(_SECTION, Kind.DATASEC)[:1]
    if section is not None and not datasecs:
        failures.append(Failure("-ENOENT", f"DATASEC '{_SECTION}' not found."))
    for datasec in datasecs:
        for variable in placed_variables(objects, btf, datasec):
            var = btf[variable.type_id]
            declaration = _Declaration(btf, var.name)
            if section is not None:
                static = is_static(objects, btf, var)
                declaration.check(variable, section.size, static)
            if var.kind is Kind.VAR:
                type = btf.skip_modifiers(var.type_id)
                if type.kind is Kind.STRUCT:
                    maps.append(declaration.read(type))
            if section is not None and declaration.fault is not None:
                failures.append(declaration.fault)
    return tuple(maps), tuple(failures)


class _Declaration:
    def __init__(self, btf: Btf, name: str, *, is_inner: bool = False) -> None:
        self.btf = btf
        self.name = name
        self.is_inner = is_inner
        self.numbers: dict[str, int] = {}
        self.types: dict[str, int] = {}
        self.inner: BpfMap | None = None
        self.fault: Failure | None = None

    def fail(self, reason: str, result: str = _INVALID) -> None:
        failure = Failure(result, f"map '{self.name}': {reason}.")
        self.fault = self.fault or failure

    # What is wrong with the variable; the section has *size* bytes.
    def check(self, variable: SectionVariable, size: int, is_static: bool) -> None:
        var = self.btf[variable.type_id]
        if not var.name:
            self.fault = Failure(_INVALID, "map #0: empty name.")
        elif variable.offset + variable.size > size:
            self.fault = Failure(_INVALID, f"map '{self.name}' BTF data is corrupted.")
        elif var.kind is not Kind.VAR:
            self.fail(f"unexpected var kind {var.kind.word}")
        elif is_static or self.btf.linkage(var) != GLOBAL:
            is_extern = self.btf.linkage(var) == EXTERN
            linkage = "static" if is_static else "extern" if is_extern else "unknown"
            self.fail(f"unsupported map linkage {linkage}", _UNSUPPORTED)
        else:
            type = self.btf.skip_modifiers(var.type_id)
            if type.kind is not Kind.STRUCT:
                # libbpf names the kind of the variable itself.
                self.fail(f"unexpected def kind {var.kind.word}")
            elif type.size > variable.size:
                self.fail("invalid def size")

    # Every member of the anonymous struct says one thing of the map.
    def read(self, type: Type) -> BpfMap:
        members = self.btf.members(type)
        for number, member in enumerate(members, 1):
            name = member.name
            if name in _ATTRIBUTES:
                self.numbers[name] = self.number(member)
            elif name in ("key_size", "value_size"):
                self.size(name, self.number(member))
            elif name in ("key", "value"):
                self.sample(name, self.btf[member.type_id])
            elif name == "values":
                self.values(member, is_last=number == len(members))
            elif name == "pinning":
                self.pinning(member)
            elif name == "map_extra":
                self.long(member)
            else:
                self.fail(f"unknown field '{name}'", _UNSUPPORTED)
        if not self.numbers.get("type"):
            self.fail("map type isn't specified")
        return BpfMap(
            self.name,
            _SECTION,
            self.numbers.get("type", 0),
            self.numbers.get("key_size", 0),
            self.numbers.get("value_size", 0),
            self.numbers.get("max_entries", 0),
            self.numbers.get("map_flags", 0),
            self.types.get("key", 0),
            self.types.get("value", 0),
            inner=self.inner,
        )

    # __uint(name, n) is `int (*name)[n]`.
    def number(self, member: Member) -> int:
        type = self.btf.skip_modifiers(member.type_id)
        attribute = f"attr '{member.name}': expected"
        if type.kind is not Kind.PTR:
            self.fail(f"{attribute} PTR, got {type.kind.word}")
            return 0
        target = self.btf[type.type_id]
        if target.kind is not Kind.ARRAY:
            self.fail(f"{attribute} ARRAY, got {target.kind.word}")
            return 0
        return self.btf.array(target).nelems

    # __ulong(name, n) is an enum64 of one enumerator, or else as __uint().
    def long(self, member: Member) -> None:
        type = self.btf.skip_modifiers(member.type_id)
        if type.kind is Kind.PTR:
            self.number(member)
        elif type.kind not in (Kind.ENUM, Kind.ENUM64):
            self.fail(
                f"attr '{member.name}': expected ENUM or ENUM64, got {type.kind.word}"
            )
        elif type.vlen != 1:
            self.fail(f"attr '{member.name}': invalid __ulong")

    def size(self, name: str, size: int) -> None:
        known = self.numbers.get(name, 0)
        if known and known != size:
            self.fail(f"conflicting {name.replace('_', ' ')} {known} != {size}")
        self.numbers[name] = size

    # __type(key, int) is `int *key`.
    def sample(self, name: str, type: Type) -> None:
        if type.kind is not Kind.PTR:
            self.fail(f"{name} spec is not PTR: {type.kind.word}")
            return
        size = self.btf.size_of(type.type_id)
        if size is None:
            self.fail(f"can't determine {name} size for type [{type.type_id}]: -22")
        self.size(f"{name}_size", size or 0)
        self.types[name] = type.type_id

    # __array(values, struct inner) is an array of pointers to the inner declaration.
    def values(self, member: Member, *, is_last: bool) -> None:
        map_type = self.numbers.get("type", 0)
        of_maps = map_type in (_ARRAY_OF_MAPS, _HASH_OF_MAPS)
        what = "map-in-map inner" if of_maps else "prog-array value"
        if self.is_inner:
            self.fail("multi-level inner maps not supported", _UNSUPPORTED)
        elif not is_last:
            self.fail("'values' member should be last")
        elif not of_maps and map_type != _PROG_ARRAY:
            self.fail("should be map-in-map or prog-array", _UNSUPPORTED)
        self.size("value_size", 4)
        type = self.btf[member.type_id]
        if type.kind is not Kind.ARRAY or self.btf.array(type).nelems:
            self.fail(f"{what} spec is not a zero-sized array")
            return
        pointer = self.btf.skip_modifiers(self.btf.array(type).type_id)
        if pointer.kind is not Kind.PTR:
            self.fail(f"{what} def is of unexpected kind {pointer.kind.word}")
            return
        target = self.btf.skip_modifiers(pointer.type_id)
        wanted = Kind.STRUCT if of_maps else Kind.FUNC_PROTO
        if target.kind is not wanted:
            self.fail(f"{what} def is of unexpected kind {target.kind.word}")
        elif of_maps and not self.is_inner:
            inner = _Declaration(self.btf, f"{self.name}.inner", is_inner=True)
            self.inner = inner.read(target)
            self.fault = self.fault or inner.fault

    def pinning(self, member: Member) -> None:
        if self.is_inner:
            self.fail("inner def can't be pinned")
        elif (pinning := self.number(member)) >= _PINNINGS:
            self.fail(f"invalid pinning value {pinning}")
