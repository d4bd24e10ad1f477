"""What the running kernel says to a BTF, a map, and a load from a map's value."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ksyms.bpf.maps import BpfMap
from tests.oracle import bpf

_MAP_CREATE, _PROG_LOAD, _BTF_LOAD = 0, 5, 18
_SCHED_CLS = 3
_LOG_SIZE = 1 << 16
_MISALIGNED = re.compile(r"kptr access misaligned expected=(\d+)")
_DIRECTLY = re.compile(r"(\w+) cannot be accessed directly")
_POINTER = re.compile(r"R3(?:_w)?=(\S*?)\(")


@contextmanager
def loaded(data: bytes) -> Iterator[int]:
    """The descriptor of *data* as BTF; OSError with the kernel's errno."""
    buffer = ctypes.create_string_buffer(data, len(data))
    fd, _ = bpf(_BTF_LOAD, struct.pack("<QQI", ctypes.addressof(buffer), 0, len(data)))
    try:
        yield fd
    finally:
        os.close(fd)


def btf_load(data: bytes) -> int:
    """The errno of BPF_BTF_LOAD, 0 for success."""
    try:
        with loaded(data):
            return 0
    except OSError as error:
        return error.errno or -1


@contextmanager
def created(map: BpfMap, btf: int) -> Iterator[int]:
    """The descriptor of *map*; OSError with the kernel's errno."""
    has_types = map.key_type_id or map.value_type_id
    attr = struct.pack(
        "<5I8x16s4x3I",
        *(map.type, map.key_size, map.value_size, map.max_entries, map.map_flags),
        b"",
        *(btf if has_types else 0, map.key_type_id, map.value_type_id),
    )
    fd, _ = bpf(_MAP_CREATE, attr)
    try:
        yield fd
    finally:
        os.close(fd)


def map_create(map: BpfMap, btf: int) -> int:
    """The errno of BPF_MAP_CREATE, 0 for success."""
    try:
        with created(map, btf):
            return 0
    except OSError as error:
        return error.errno or -1


def fields(map: int, value_size: int) -> dict[int, str]:
    """Special fields in the value of an array map, by offset.

    A pointer once: "ptr " and the verifier's words for a load of it. Others by name, at
    each multiple of 4 in them: where one begins, the kernel does not tell.
    """
    found: dict[int, str] = {}
    for offset in range(0, value_size, 4):
        log = _load(map, offset, 1)
        start = None
        if directly := _DIRECTLY.search(log):
            found[offset] = directly[1]
        elif "kptr access size must be BPF_DW" in log:
            start = offset
        elif misaligned := _MISALIGNED.search(log):
            start = int(misaligned[1])
        if start is not None:
            pointer = _POINTER.search(_load(map, start, 8))
            found[start] = f"ptr {pointer[1] if pointer else '?'}"
    return found


# The verifier's log of a program that loads *size* bytes from the value at *offset*.
def _load(map: int, offset: int, size: int) -> str:
    program = [
        _insn(0x62, 10, off=-4),  # *(u32 *)(r10 - 4) = 0
        _insn(0xBF, 2, 10),
        _insn(0x07, 2, imm=-4),
        _insn(0x18, 1, 1, imm=map),
        _insn(0),
        _insn(0x85, imm=1),  # bpf_map_lookup_elem
        _insn(0x55, 0, off=1),  # if r0 != 0 goto the load
        _insn(0x95),
        _insn(0x71 if size == 1 else 0x79, 3, 0, offset),
        _insn(0xB7, 0),
        _insn(0x95),
    ]
    code = b"".join(program)
    insns = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(_LOG_SIZE)
    attr = struct.pack(
        "<IIQQIIQ",
        *(_SCHED_CLS, len(program)),
        *(ctypes.addressof(insns), ctypes.addressof(licence)),
        *(2, _LOG_SIZE, ctypes.addressof(log)),
    )
    try:
        os.close(bpf(_PROG_LOAD, attr)[0])
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise
    return log.value.decode()


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, off, imm)
