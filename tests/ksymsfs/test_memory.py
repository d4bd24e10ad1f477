"""The memory of the process that calls: this one's, and one that does not answer."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading

import pytest

from ksymsfs.aside import Aside
from ksymsfs.errors import RefusedError
from ksymsfs.memory import Memory

PAGE = 4096


@pytest.fixture
def memory() -> Memory:
    return Memory(os.getpid(), Aside(seconds=20), "key")


def failure(call: object, *arguments: object) -> int | None:
    assert callable(call)
    with pytest.raises(RefusedError) as caught:
        call(*arguments)
    return caught.value.errno


def pages(protection: int) -> int:
    """Two pages with this protection and then a hole."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    at = libc.mmap(None, ctypes.c_size_t(3 * PAGE), 3, 0x22, -1, ctypes.c_long(0))
    ctypes.memset(at, 0x41, 2 * PAGE)
    size = ctypes.c_size_t(2 * PAGE)
    assert libc.mprotect(ctypes.c_void_p(at), size, protection) == 0
    hole = ctypes.c_void_p(at + 2 * PAGE)
    assert libc.munmap(hole, ctypes.c_size_t(PAGE)) == 0
    return int(at)


READ, WRITE = 1, 2


def test_what_is_written_is_there(memory: Memory) -> None:
    buffer = ctypes.create_string_buffer(b"........", 8)

    memory.write(ctypes.addressof(buffer) + 2, b"four")

    assert buffer.raw == b"..four.."


def test_what_is_there_is_read(memory: Memory) -> None:
    buffer = ctypes.create_string_buffer(b"some bytes")

    assert memory.read(ctypes.addressof(buffer), 4) == b"some"
    assert memory.read_string(ctypes.addressof(buffer), 100) == b"some bytes"


@pytest.mark.parametrize("address", [0, 8, (1 << 64) - 8, 0xFFFFFFFF81000000])
def test_an_address_that_is_nowhere_is_efault(memory: Memory, address: int) -> None:
    assert failure(memory.write, address, b"x" * 8) == errno.EFAULT
    assert failure(memory.read, address, 8) == errno.EFAULT
    assert failure(memory.read_string, address, 8) == errno.EFAULT


def test_memory_that_may_not_be_written_is_efault_and_stays(memory: Memory) -> None:
    at = pages(READ)

    assert failure(memory.write, at, b"x" * 8) == errno.EFAULT
    assert memory.read(at, 8) == b"A" * 8


def test_memory_without_any_access_is_efault(memory: Memory) -> None:
    assert failure(memory.read, pages(0), 8) == errno.EFAULT


def test_a_write_that_only_begins_in_memory_is_efault(memory: Memory) -> None:
    at = pages(READ | WRITE)

    assert failure(memory.write, at + 2 * PAGE - 4, b"x" * 8) == errno.EFAULT
    assert failure(memory.read, at + 2 * PAGE - 4, 8) == errno.EFAULT


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 1])
def test_a_string_is_read_up_to_its_end_and_not_past_a_hole(
    memory: Memory, length: int
) -> None:
    end = pages(READ | WRITE) + 2 * PAGE
    ctypes.memset(end - 1, 0, 1)

    assert memory.read_string(end - 1 - length, 3 * PAGE) == b"A" * length


def test_a_string_that_is_too_long_says_so(memory: Memory) -> None:
    at = pages(READ)

    assert failure(memory.read_string, at, 100) == errno.ENAMETOOLONG
    assert failure(memory.read_string, at, 3 * PAGE) == errno.EFAULT


def test_another_process_has_its_own_memory() -> None:
    script = (
        "import ctypes, sys\n"
        "b = ctypes.create_string_buffer(b'before', 6)\n"
        "print(ctypes.addressof(b), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(b.raw.decode(), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = int(process.stdout.readline())
        memory = Memory(process.pid, Aside(seconds=20))
        try:
            memory.write(address, b"behind")
        except RefusedError:
            process.communicate("\n")
            pytest.skip("this process may not write another's memory")
        output, _ = process.communicate("\n")

    assert output == "behind\n"
    assert failure(memory.read, address, 6) == errno.EFAULT  # it is gone


def test_a_caller_that_cannot_be_seen_has_no_memory() -> None:
    memory = Memory(0, Aside())

    assert failure(memory.read, 4096, 8) == errno.ENOTTY
    assert failure(memory.write, 4096, b"x") == errno.ENOTTY


class Stalling(Aside):
    """Calls everything too late."""

    def run(self, key: object, call: object) -> object:  # type: ignore[override]
        late = threading.Event()
        late.set()
        assert callable(call)
        return call(late)


def test_what_is_begun_too_late_is_not_written() -> None:
    buffer = ctypes.create_string_buffer(b"untouched", 9)
    memory = Memory(os.getpid(), Stalling())

    assert failure(memory.write, ctypes.addressof(buffer), b"x" * 9) == errno.EFAULT
    assert buffer.raw == b"untouched"
