"""How long the kernel's BPF programs are: bpf(2), what kallsyms does not show.

A line of kallsyms ends where the next begins, which for programs in one shared pack of
pages claims the holes that unloaded ones have left. The kernel itself goes by
jited_len (kernel/bpf/core.c bpf_prog_ksym_set_addr), which is told here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_NR_BPF = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 11, 13, 15
_FUNCTIONS = 256  # of one program, without asking twice

# struct bpf_prog_info: offsets of nr_jited_ksyms, nr_jited_func_lens, jited_ksyms and
# jited_func_lens, which Linux 4.18 appended, and the length up to there.
_COUNTS, _POINTERS, _INFO = 104, 112, 128


def jited_lengths() -> dict[int, int]:
    """Address -> bytes of every function of every loaded BPF program.

    Empty where bpf(2) is refused (it needs CAP_SYS_ADMIN) or unknown.
    """
    lengths: dict[int, int] = {}
    program = 0
    while True:
        try:
            program = _next_id(program)
        except OSError:
            return lengths
        try:
            fd, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program, 0, 0))
        except OSError:
            continue  # unloaded meanwhile
        try:
            lengths.update(_functions(fd, _FUNCTIONS))
        except OSError:
            continue
        finally:
            os.close(fd)


def _next_id(program: int) -> int:
    _, attr = _bpf(_PROG_GET_NEXT_ID, struct.pack("=III", program, 0, 0))
    return int(struct.unpack_from("=I", attr, 4)[0])


def _functions(fd: int, most: int) -> dict[int, int]:
    addresses = (ctypes.c_uint64 * most)()
    lengths = (ctypes.c_uint32 * most)()
    info = ctypes.create_string_buffer(_INFO)
    struct.pack_into("=II", info, _COUNTS, most, most)
    struct.pack_into(
        "=QQ", info, _POINTERS, ctypes.addressof(addresses), ctypes.addressof(lengths)
    )
    _bpf(
        _OBJ_GET_INFO_BY_FD,
        struct.pack("=IIQ", fd, _INFO, ctypes.addressof(info)),
    )
    count = min(struct.unpack_from("=II", info, _COUNTS))
    if count > most:
        return _functions(fd, count)
    return {a: n for a, n in zip(addresses[:count], lengths[:count], strict=True) if a}


def _bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    number = _NR_BPF.get(platform.machine())
    if number is None:
        raise OSError("bpf: unknown architecture")
    buffer = ctypes.create_string_buffer(attr, len(attr))
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, command, buffer, len(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf: {os.strerror(error)}")
    return int(result), buffer.raw
