"""The types of BPF maps, and what each of them accepts at BPF_MAP_CREATE.

include/uapi/linux/bpf.h, and the map_alloc_check, map_alloc and map_check_btf of each
type in kernel/bpf, Linux 6.12 to 7.2.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from errno import E2BIG, EINVAL

from ksyms.bpf.kernel_rules import KernelRules
from ksyms.bpf.maps import BpfMap
from ksyms.bpf.refusal import ENOTSUPP, refused
from ksyms.btf import Btf
from ksyms.btf_types import Kind, Type


class MapType(IntEnum):
    """BPF_MAP_TYPE_*."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERF_EVENT_ARRAY = 4
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKMAP = 15
    CPUMAP = 16
    XSKMAP = 17
    SOCKHASH = 18
    CGROUP_STORAGE = 19
    REUSEPORT_SOCKARRAY = 20
    PERCPU_CGROUP_STORAGE = 21
    QUEUE = 22
    STACK = 23
    SK_STORAGE = 24
    DEVMAP_HASH = 25
    STRUCT_OPS = 26
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    BLOOM_FILTER = 30
    USER_RINGBUF = 31
    CGRP_STORAGE = 32
    ARENA = 33
    INSN_ARRAY = 34
    RHASH = 35


class MapFlag(IntFlag):
    """BPF_F_* of BPF_MAP_CREATE."""

    NO_PREALLOC = 1 << 0
    NO_COMMON_LRU = 1 << 1
    NUMA_NODE = 1 << 2
    RDONLY = 1 << 3
    WRONLY = 1 << 4
    STACK_BUILD_ID = 1 << 5
    ZERO_SEED = 1 << 6
    RDONLY_PROG = 1 << 7
    WRONLY_PROG = 1 << 8
    CLONE = 1 << 9
    MMAPABLE = 1 << 10
    PRESERVE_ELEMS = 1 << 11
    INNER_MAP = 1 << 12


_T, _F = MapType, MapFlag
_PROG_ACCESS = _F.RDONLY_PROG | _F.WRONLY_PROG
_ACCESS = _F.RDONLY | _F.WRONLY | _PROG_ACCESS
_LOCAL_STORAGE = (_T.SK_STORAGE, _T.INODE_STORAGE, _T.TASK_STORAGE, _T.CGRP_STORAGE)
_PERCPU_HASHES = (_T.PERCPU_HASH, _T.LRU_PERCPU_HASH)
_LRU = (_T.LRU_HASH, _T.LRU_PERCPU_HASH)
_HASHES = (_T.HASH, _T.HASH_OF_MAPS, *_PERCPU_HASHES, _T.LRU_HASH)
_OF_DESCRIPTORS = (
    *(_T.PROG_ARRAY, _T.PERF_EVENT_ARRAY, _T.CGROUP_ARRAY),
    *(_T.ARRAY_OF_MAPS, _T.HASH_OF_MAPS),
)
_DEVMAPS = (_T.DEVMAP, _T.DEVMAP_HASH)
_REDIRECTS = (*_DEVMAPS, _T.SOCKMAP, _T.SOCKHASH, _T.XSKMAP)
_ARRAYS = (_T.ARRAY, _T.PERCPU_ARRAY, _T.REUSEPORT_SOCKARRAY, *_OF_DESCRIPTORS[:-1])
_PERCPU_SIZE_MAX = 32 << 10  # PCPU_MIN_UNIT_SIZE
_ALLOC_MAX = 4 << 20  # KMALLOC_MAX_SIZE
_STACK_MAX = 127  # frames: kernel.perf_event_max_stack, as it is by default
_FRAME, _BUILD_ID_FRAME = 8, 32  # bytes
_STORAGE_MAX = 0xFFFF - 100  # below it some of struct bpf_local_storage_elem

WITHOUT_BTF = frozenset(
    {
        *(_T.PERF_EVENT_ARRAY, _T.CGROUP_ARRAY, _T.STACK_TRACE, _T.ARRAY_OF_MAPS),
        *(_T.HASH_OF_MAPS, _T.DEVMAP, _T.DEVMAP_HASH, _T.CPUMAP, _T.XSKMAP),
        *(_T.SOCKMAP, _T.SOCKHASH, _T.QUEUE, _T.STACK, _T.ARENA),
    }
)
"""Types that libbpf gives no BTF to (bpf_object__create_map())."""
# map_check_no_btf()
_REFUSE_BTF = WITHOUT_BTF - {_T.QUEUE, _T.STACK, _T.ARENA}
# A BTF without a type for the key is looked at only where the type has a
# map_check_btf(), which is then asked last.
_KEYLESS = _REFUSE_BTF | {
    *(_T.ARRAY, _T.PERCPU_ARRAY, _T.LPM_TRIE, _T.BLOOM_FILTER, _T.ARENA),
    *(_T.CGROUP_STORAGE, _T.PERCPU_CGROUP_STORAGE, *_LOCAL_STORAGE),
}

_LOCK_TYPES = frozenset(
    {_T.HASH, _T.RHASH, _T.ARRAY, _T.CGROUP_STORAGE, *_LOCAL_STORAGE}
)
_TIMER_TYPES = frozenset({_T.HASH, _T.RHASH, _T.LRU_HASH, _T.ARRAY})
_KPTR_TYPES = frozenset(
    {
        *(_T.HASH, _T.RHASH, _T.LRU_HASH, *_PERCPU_HASHES),
        *(_T.ARRAY, _T.PERCPU_ARRAY, *_LOCAL_STORAGE),
    }
)
_ROOT_TYPES = _TIMER_TYPES - {_T.RHASH}
TYPES_WITH = {
    "bpf_spin_lock": _LOCK_TYPES,
    "bpf_res_spin_lock": _LOCK_TYPES,
    "bpf_timer": _TIMER_TYPES,
    "bpf_wq": _TIMER_TYPES,
    "bpf_task_work": _TIMER_TYPES,
    "bpf_list_head": _ROOT_TYPES,
    "bpf_rb_root": _ROOT_TYPES,
    "bpf_refcount": _KPTR_TYPES,
    "kptr": _KPTR_TYPES,
    "kptr_untrusted": _KPTR_TYPES,
    "percpu_kptr": _KPTR_TYPES,
    "uptr": frozenset({_T.TASK_STORAGE}),
}
"""The map types in whose values a kind of field may be (map_check_btf())."""

_FLAGS = {
    **dict.fromkeys(
        _ARRAYS,
        _F.NUMA_NODE | _F.MMAPABLE | _ACCESS | _F.PRESERVE_ELEMS | _F.INNER_MAP,
    ),
    **dict.fromkeys(
        _HASHES,
        _F.NO_PREALLOC | _F.NO_COMMON_LRU | _F.NUMA_NODE | _ACCESS | _F.ZERO_SEED,
    ),
    **dict.fromkeys(_LOCAL_STORAGE, _F.NO_PREALLOC | _F.CLONE),
    **dict.fromkeys(_REDIRECTS, _F.NUMA_NODE | _F.RDONLY | _F.WRONLY),
    _T.CPUMAP: _F.NUMA_NODE,
    _T.LPM_TRIE: _F.NO_PREALLOC | _F.NUMA_NODE | _ACCESS,
    _T.CGROUP_STORAGE: _F.NUMA_NODE | _ACCESS,
    _T.PERCPU_CGROUP_STORAGE: _F.NUMA_NODE | _ACCESS,
    _T.BLOOM_FILTER: _F.NUMA_NODE | _F.ZERO_SEED | _ACCESS,
    _T.QUEUE: _F.NUMA_NODE | _ACCESS,
    _T.STACK: _F.NUMA_NODE | _ACCESS,
    _T.STACK_TRACE: _F.NUMA_NODE | _F.RDONLY | _F.WRONLY | _F.STACK_BUILD_ID,
}


def is_read_only(map: BpfMap) -> bool:
    """Whether fields in a map would be in the way of BPF_F_RDONLY_PROG or its kin.

    The kernel sets that of its own for maps of devices.
    """
    return bool(map.map_flags & _PROG_ACCESS) or map.type in _DEVMAPS


def type_name(number: int) -> str:
    """The name of BPF_MAP_TYPE_* without the prefix; the number if it has none."""
    return MapType(number).name if number in MapType._value2member_map_ else f"{number}"


def check_attributes(map: BpfMap, rules: KernelRules, *, has_btf: bool) -> None:
    """Raise RefusedError where no BTF could make the kernel create *map*.

    Only of types that can have fields are the attributes looked at; the sizes at
    which memory gets scarce are those of 4 KiB pages.
    """
    flags = map.map_flags
    if not 0 < map.type < rules.map_types:
        raise refused(EINVAL, f"the kernel has no maps of type {type_name(map.type)}")
    if map.type not in _FLAGS:
        return
    type = MapType(map.type)
    if flags & _F.RDONLY and flags & _F.WRONLY:
        raise refused(EINVAL, "BPF_F_RDONLY and BPF_F_WRONLY")
    if type in _LRU and flags & _F.NO_PREALLOC and not flags & ~int(_FLAGS[type]):
        raise refused(ENOTSUPP, "BPF_F_NO_PREALLOC on an LRU map")
    if flags & ~int(_FLAGS[type]):
        unknown = flags & ~int(_FLAGS[type])
        raise refused(EINVAL, f"flags {unknown:#x} on a map of type {type.name}")
    if flags & _F.RDONLY_PROG and flags & _F.WRONLY_PROG:
        raise refused(EINVAL, "BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG")
    _check_flags(type, MapFlag(flags))
    _check_sizes(map, type, has_btf)


def _check_flags(type: MapType, flags: MapFlag) -> None:
    percpu = type in (*_PERCPU_HASHES, _T.PERCPU_ARRAY) or flags & _F.NO_COMMON_LRU
    reason = ""
    if flags & _F.NO_COMMON_LRU and type not in _LRU:
        reason = "BPF_F_NO_COMMON_LRU on a map that is not LRU"
    elif flags & _F.NUMA_NODE and percpu:
        reason = "BPF_F_NUMA_NODE on a per-CPU map"
    elif flags & (_F.MMAPABLE | _F.INNER_MAP) and type is not _T.ARRAY:
        reason = "BPF_F_MMAPABLE or BPF_F_INNER_MAP on a map that is not ARRAY"
    elif flags & _F.PRESERVE_ELEMS and type is not _T.PERF_EVENT_ARRAY:
        reason = "BPF_F_PRESERVE_ELEMS on a map that is not PERF_EVENT_ARRAY"
    elif type in _OF_DESCRIPTORS and flags & _PROG_ACCESS and type in _ARRAYS:
        reason = "BPF_F_RDONLY_PROG or BPF_F_WRONLY_PROG on a map of descriptors"
    elif type in (_T.LPM_TRIE, *_LOCAL_STORAGE) and not flags & _F.NO_PREALLOC:
        reason = f"a map of type {type.name} without BPF_F_NO_PREALLOC"
    if reason:
        raise refused(EINVAL, reason)


def _check_sizes(map: BpfMap, type: MapType, has_btf: bool) -> None:
    key, value, entries = map.key_size, map.value_size, map.max_entries
    storage = type in (_T.CGROUP_STORAGE, _T.PERCPU_CGROUP_STORAGE, *_LOCAL_STORAGE)
    reason = ""
    # libbpf makes as many entries of a PERF_EVENT_ARRAY as there are CPUs.
    if bool(entries) == storage and type is not _T.PERF_EVENT_ARRAY:
        reason = f"max_entries is {entries}"
    elif not _key_size_is_right(type, key):
        reason = f"key_size is {key}"
    elif not _value_size_is_right(type, value, map.map_flags):
        reason = f"value_size is {value}"
    elif type in _LOCAL_STORAGE and not has_btf:
        reason = f"a map of type {type.name} without BTF of its key and value"
    if reason:
        raise refused(EINVAL, reason)
    percpu = type in (*_PERCPU_HASHES, _T.PERCPU_ARRAY, _T.PERCPU_CGROUP_STORAGE)
    most = _ALLOC_MAX - 512
    if type is _T.ARRAY:
        most = 0x7FFFFFFF
    elif percpu:
        most = _PERCPU_SIZE_MAX
    elif storage:
        most = _STORAGE_MAX
    if value > most:
        raise refused(E2BIG, f"value_size is {value}, and {most} the most")


def _key_size_is_right(type: MapType, size: int) -> bool:
    if type in (*_HASHES, _T.SOCKHASH):
        return size > 0
    if type is _T.LPM_TRIE:
        return 5 <= size <= 260
    if type in (_T.CGROUP_STORAGE, _T.PERCPU_CGROUP_STORAGE):
        return size in (8, 16)
    if type in (_T.QUEUE, _T.STACK, _T.BLOOM_FILTER):
        return size == 0
    return size == 4


def _value_size_is_right(type: MapType, size: int, flags: int) -> bool:
    if type in _OF_DESCRIPTORS:
        return size == 4
    if type in (_T.REUSEPORT_SOCKARRAY, _T.CPUMAP, *_REDIRECTS):
        return size == 4 or (size == 8 and type is not _T.XSKMAP)
    if type is _T.STACK_TRACE:
        frame = _BUILD_ID_FRAME if flags & _F.STACK_BUILD_ID else _FRAME
        return size % frame == 0 and 0 < size <= _STACK_MAX * frame
    return size > 0


def check_keyless(map: BpfMap) -> None:
    """Raise RefusedError where a map of this type needs a BTF type for its key."""
    if map.type not in _KEYLESS:
        raise refused(EINVAL, "the key has no BTF type")


def check_key(map: BpfMap, btf: Btf, key: Type | None, value: Type) -> None:
    """Raise RefusedError where maps of this type do not take such a key.

    map_check_btf() of the type; *key* is None for a map whose BTF has none.
    """
    type = map.type
    wrong = False
    if type in _REFUSE_BTF:
        raise refused(ENOTSUPP, f"maps of type {type_name(type)} take no BTF")
    if key is None:
        reason = "the key has no BTF type"
        if type == _T.ARRAY:
            wrong = map.max_entries != 1 or value.kind is not Kind.DATASEC
        else:
            wrong = type not in (_T.BLOOM_FILTER, _T.ARENA)
    elif type in (_T.ARRAY, _T.PERCPU_ARRAY, *_LOCAL_STORAGE):
        reason = "the key is not an integer of 32 bits"
        wrong = not _is_int(btf, key, 32)
    elif type == _T.LPM_TRIE:
        reason = "the key is not a struct"
        wrong = key.kind is not Kind.STRUCT
    elif type in (_T.CGROUP_STORAGE, _T.PERCPU_CGROUP_STORAGE):
        reason = "the key is no struct bpf_cgroup_storage_key and no u64"
        wrong = not _is_cgroup_key(map, btf, key)
    elif type == _T.BLOOM_FILTER:
        raise refused(EINVAL, "a map of type BLOOM_FILTER has no key")
    if wrong:
        raise refused(EINVAL, reason)


def _is_int(btf: Btf, type: Type, bits: int) -> bool:
    if type.kind is not Kind.INT:
        return False
    encoding = btf.encoding(type)
    return encoding.bits == bits and not encoding.bit_offset


def _is_cgroup_key(map: BpfMap, btf: Btf, key: Type) -> bool:
    if map.key_size == 8:
        return _is_int(btf, key, 64)
    if key.kind is not Kind.STRUCT or key.vlen != 2:
        return False
    inode, attach = btf.members(key)
    return (
        (inode.bit_offset, inode.bit_size) == (0, 0)
        and (attach.bit_offset, attach.bit_size) == (64, 0)
        and _is_int(btf, btf.skip_modifiers(inode.type_id), 64)
        and _is_int(btf, btf.skip_modifiers(attach.type_id), 32)
    )
