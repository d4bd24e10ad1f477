"""The kernel's own %pS: what kallsyms says of an address, asked through bpf(2).

A BPF program of type SYSCALL, assembled here by hand, hands bpf_snprintf the address
from its context and copies the text back: no compiler, no libbpf, no load of a table.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_NR_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), -1)
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _TEST_RUN, _MAP_FREEZE = 0, 2, 5, 10, 22
_TEXT = 256  # bytes of text that the program gives back

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    """bpf(2) with *attr* (padded to 128 bytes): the result and the attr after it.

    Raises OSError with the kernel's errno.
    """
    buffer = ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128)
    result = _libc.syscall(_NR_BPF, command, buffer, 128)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, off, imm)


class Oracle:
    """One loaded program for one format; close it, or use it in a with block."""

    def __init__(self, fmt: str = "%pS") -> None:
        self._fds: list[int] = []
        # bpf_snprintf takes its format from a frozen map that programs only read
        fmt_map = self._new(_MAP_CREATE, struct.pack("<IIIII", 2, 4, 8, 1, 1 << 7))
        value = ctypes.create_string_buffer(fmt.encode(), 8)
        key = ctypes.create_string_buffer(4)
        bpf(
            _MAP_UPDATE,
            struct.pack(
                "<IxxxxQQQ", fmt_map, ctypes.addressof(key), ctypes.addressof(value), 0
            ),
        )
        bpf(_MAP_FREEZE, struct.pack("<I", fmt_map))
        text = -8 - _TEXT  # on the stack: the argument at -8, the text below it
        program = [
            _insn(0xBF, 6, 1),  # r6 = ctx
            _insn(0xB7, 0, imm=0),
            *(_insn(0x7B, 10, 0, text + i) for i in range(0, _TEXT, 8)),
            _insn(0x79, 1, 6, 0),  # r1 = ctx->address
            _insn(0x7B, 10, 1, -8),
            _insn(0xBF, 1, 10),
            _insn(0x07, 1, imm=text),
            _insn(0xB7, 2, imm=_TEXT),
            _insn(0x18, 3, 2, imm=fmt_map),  # BPF_PSEUDO_MAP_VALUE, offset 0
            _insn(0),
            _insn(0xBF, 4, 10),
            _insn(0x07, 4, imm=-8),
            _insn(0xB7, 5, imm=8),
            _insn(0x85, imm=165),  # bpf_snprintf
        ]
        for i in range(0, _TEXT, 8):
            program += [_insn(0x79, 1, 10, text + i), _insn(0x7B, 6, 1, 8 + i)]
        program += [_insn(0xB7, 0, imm=0), _insn(0x95)]
        code = b"".join(program)
        insns = ctypes.create_string_buffer(code, len(code))
        licence = ctypes.create_string_buffer(b"GPL")
        log = ctypes.create_string_buffer(1 << 16)
        attr = struct.pack(
            "<IIQQIIQII",
            31,  # BPF_PROG_TYPE_SYSCALL
            len(code) // 8,
            ctypes.addressof(insns),
            ctypes.addressof(licence),
            1,
            len(log),
            ctypes.addressof(log),
            0,
            1 << 4,  # BPF_F_SLEEPABLE
        )
        try:
            self._program = self._new(_PROG_LOAD, attr)
        except OSError as error:
            self.close()
            raise OSError(error.errno, log.value.decode()) from error

    def _new(self, command: int, attr: bytes) -> int:
        fd = bpf(command, attr)[0]
        self._fds.append(fd)
        return fd

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the program and its map back to the kernel."""
        while self._fds:
            os.close(self._fds.pop())

    def __call__(self, address: int) -> str:
        """The kernel's text for *address*."""
        context = ctypes.create_string_buffer(struct.pack("<Q", address), 8 + _TEXT)
        where = ctypes.addressof(context)
        # prog_fd, 3 unused, data_in, data_out, repeat, duration, ctx sizes, ctx_in;
        # the kernel writes the context back in place
        attr = struct.pack(
            "<4I2Q4IQ", self._program, 0, 0, 0, 0, 0, 0, 0, 8 + _TEXT, 0, where
        )
        while True:
            try:
                bpf(_TEST_RUN, attr)
            except OSError as error:
                if error.errno != errno.EINTR:
                    raise
            else:
                return context.raw[8:].split(b"\0", 1)[0].decode()


@contextmanager
def program(name: str) -> Iterator[None]:
    """A loaded socket filter called *name*: its symbol is bpf_prog_TAG_name."""
    # r0 = 0; exit
    code = bytes.fromhex("b700000000000000 9500000000000000")
    insns = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "<IIQQIIQII16s",
        *(1, 2, ctypes.addressof(insns), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0),
        name.encode(),
    )
    fd, _ = bpf(_PROG_LOAD, attr)
    try:
        yield
    finally:
        os.close(fd)
