"""Which fields a kernel sees in the maps of a BPF object, and what it refuses.

Pure: the object, the types of a kernel and its rules go in, the answer comes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ksyms.bpf.btf_load import LoadedBtf
from ksyms.bpf.fields import Field
from ksyms.bpf.ignored import Ignored, IgnoredPointers
from ksyms.bpf.kernel_rules import KernelRules
from ksyms.bpf.map_create import MapVerdict, map_create
from ksyms.bpf.map_types import WITHOUT_BTF, type_name
from ksyms.bpf.maps import BPF_F_MMAPABLE, BpfMap
from ksyms.bpf.object import BpfObject
from ksyms.bpf.refusal import ENOTSUPP, Refusal, RefusedError
from ksyms.bpf.targets import Target, Types
from ksyms.btf import Btf

CLANG_WITH_TAGS = 15
_CLANG = re.compile(r"clang version (\d+)")


class MapField(NamedTuple):
    """A special field in the value of a map."""

    kind: str
    """As in kernel_rules.FIELD_KINDS: "kptr", "bpf_timer" ..."""
    offset: int
    """Bytes from the start of the value."""
    path: str
    """In C terms: "value.inner[2].task", or from a global variable's name on."""
    target: Target | None
    """What it points to, or holds; None for fields of their own."""


class MapFields(NamedTuple):
    """A map, and what the kernel makes of its value."""

    map: BpfMap
    map_create: Refusal | None
    """Of BPF_MAP_CREATE; None when the map is created."""
    fields: tuple[MapField, ...]
    """In the order of their offsets; those of a refused map too."""
    ignored: tuple[Ignored, ...]
    """Pointers that are tagged, but no fields."""
    retry: Refusal | None
    """Of libbpf's second try to create a refused map, without types."""
    inner: MapFields | None = None
    """Of a map of maps: what its maps are like."""

    @property
    def mmap(self) -> Refusal | None:
        """Of mmap(2), by which libbpf shares global data with its user."""
        is_shared = self.map.variables and self.map.map_flags & BPF_F_MMAPABLE
        if not is_shared or not self.fields or self.map_create is not None:
            return None
        return Refusal(
            ENOTSUPP,
            "a map with special fields cannot be mapped into memory; libbpf does so "
            "with all global data, unless its variables are static or __hidden",
        )

    @property
    def is_lost(self) -> bool:
        """Whether libbpf comes to no map, or to one without the fields."""
        lacks = bool(self.fields) or self.retry is not None
        return self.map_create is not None and lacks


class Kptrs(NamedTuple):
    """The answer for one object."""

    rules: str
    """Name of the kernel's rules."""
    btf_load: Refusal | None
    """Of BPF_BTF_LOAD; None when the kernel takes the object's BTF."""
    maps: tuple[MapFields, ...]
    """In libbpf's order."""
    warnings: tuple[str, ...]

    @property
    def all_maps(self) -> tuple[MapFields, ...]:
        """The maps, each followed by what its maps are like if it holds maps."""
        return tuple(_all(self.maps))

    @property
    def refusals(self) -> tuple[str, ...]:
        """What the kernel would refuse, in words that say what."""
        return tuple(_refusals(self))

    @property
    def result(self) -> str:
        """ "ok", or the errno of the first refusal: "-ENOENT"."""
        lost = [
            found.map_create if found.is_lost else found.mmap for found in self.all_maps
        ]
        refused = filter(None, [self.btf_load, *lost])
        return next((refusal.result for refusal in refused), "ok")


def find_kptrs(obj: BpfObject, types: Types, rules: KernelRules) -> Kptrs:
    """What a kernel with *types* and *rules* says to the BTF and the maps of *obj*.

    Raises BtfError where the kernel's BTF cannot be followed, OSError where a module's
    cannot be read.
    """
    loaded, refusal = _load(obj, types, rules)
    maps = tuple(
        _Explained(obj.btf, loaded, refusal, types, rules).of(found)
        for found in obj.maps
    )
    return Kptrs(rules.name, refusal, maps, tuple(_warnings(obj, maps)))


# What of an object the rules alone decide: the same on all kernels of one age.
_loaded: WeakKeyDictionary[BpfObject, dict[KernelRules, LoadedBtf | Refusal]]
_loaded = WeakKeyDictionary()


def _load(
    obj: BpfObject, types: Types, rules: KernelRules
) -> tuple[LoadedBtf | None, Refusal | None]:
    if obj.loader_btf is None:
        return None, None
    by_rules = _loaded.setdefault(obj, {})
    if rules not in by_rules:
        by_rules[rules] = _load_for(obj.loader_btf, obj.name, rules)
    loaded = by_rules[rules]
    if isinstance(loaded, Refusal):
        return None, loaded
    try:
        loaded.check(types)
    except RefusedError as error:
        return None, error.refusal
    return loaded, None


def _load_for(data: bytes, name: str, rules: KernelRules) -> LoadedBtf | Refusal:
    try:
        return LoadedBtf(data, rules, name=f"{name}: .BTF")
    except RefusedError as error:
        return error.refusal


# One map with the reasons for what is not in it; *btf* is as the compiler wrote it.
class _Explained(NamedTuple):
    btf: Btf | None
    loaded: LoadedBtf | None
    refusal: Refusal | None
    types: Types
    rules: KernelRules

    def of(self, map: BpfMap) -> MapFields:
        verdict = map_create(map, self.loaded, self.types, self.rules)
        fields = sorted(
            (_map_field(field, target) for field, target in verdict.record.fields),
            key=lambda field: field.offset,
        )
        ignored = tuple(self.ignored(map, verdict, {field.path for field in fields}))
        inner = self.of(map.inner) if map.inner else None
        return MapFields(
            map, verdict.refusal, tuple(fields), ignored, verdict.retry, inner
        )

    def ignored(
        self, map: BpfMap, verdict: MapVerdict, paths: set[str]
    ) -> Iterator[Ignored]:
        if self.btf is None:
            return
        pointers = IgnoredPointers(self.btf, self.rules)
        otherwise = self.otherwise(verdict)
        if map.variables:
            yield from pointers.of_variables(map.variables, paths, "", otherwise)
        elif map.value_type_id:
            yield from pointers.of_value(map.value_type_id, paths, "", otherwise)
        if map.key_type_id:
            yield from pointers.of_key(map.key_type_id)

    # Why a pointer is no field with which nothing is wrong by itself.
    def otherwise(self, verdict: MapVerdict) -> str:
        if self.refusal is not None:
            return f"BPF_BTF_LOAD fails ({self.refusal.result}): there are no types"
        if verdict.swallowed is not None:
            return (
                f"the kernel gives up on the whole value ({verdict.swallowed.result}) "
                f"and tells nobody: {verdict.swallowed}"
            )
        return "its variable has not the size that its type has"


def _map_field(field: Field, target: Target | None) -> MapField:
    path = f"value{field.path}" if field.path[:1] in (".", "[") else field.path
    return MapField(field.kind, field.offset, path, target)


def _all(maps: tuple[MapFields, ...]) -> Iterator[MapFields]:
    for found in maps:
        yield found
        if found.inner is not None:
            yield found.inner


def _refusals(kptrs: Kptrs) -> Iterator[str]:
    if kptrs.btf_load is not None:
        yield (
            f"BPF_BTF_LOAD fails with {kptrs.btf_load.result} "
            f"(libbpf goes on without types): {kptrs.btf_load}"
        )
    for found in kptrs.all_maps:
        if found.is_lost:
            yield _refusal_text(found)
        if found.mmap is not None:
            yield (
                f"map '{found.map.name}': mmap(2) fails with {found.mmap.result}: "
                f"{found.mmap}"
            )


def _refusal_text(found: MapFields) -> str:
    assert found.map_create is not None
    then = (
        ""
        if found.retry
        else " (libbpf creates it without types, and so without fields)"
        if found.fields
        else " (libbpf creates it without types)"
    )
    return (
        f"map '{found.map.name}': BPF_MAP_CREATE fails with "
        f"{found.map_create.result}{then}: {found.map_create}"
    )


def _warnings(obj: BpfObject, maps: tuple[MapFields, ...]) -> Iterator[str]:
    version = _CLANG.match(obj.compiler or "")
    if version and int(version[1]) < CLANG_WITH_TAGS and maps:
        yield (
            f"built by clang {version[1]}, which leaves the tags of many pointers out "
            f"of BTF: kptrs may be missing here (clang {CLANG_WITH_TAGS} keeps them)"
        )
    for found in _all(maps):
        if found.map_create is not None and not found.is_lost:
            yield _refusal_text(found)
        if found.fields and found.map.type in WITHOUT_BTF:
            yield (
                f"map '{found.map.name}': libbpf tells the kernel no types of a map of "
                f"type {type_name(found.map.type)}: it will have none of its fields"
            )
