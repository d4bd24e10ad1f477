"""Flavors: ioctls by the rules of each system, answered for this very process."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

import pytest

from ksymsfs.aside import Aside
from ksymsfs.elf import ElfFormat
from ksymsfs.flavor import FLAVORS, FREEBSD, ILLUMOS, NETBSD
from ksymsfs.ioctl import Ioctl
from ksymsfs.memory import Memory
from ksymsfs.netbsd import build_netbsd_image
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import Module
from tests.ksymsfs.test_flavor_layouts import KALLSYMS, files_of

# <sys/ksyms.h> of NetBSD, as BSD's macros and as Linux's number them.
OKIOCGSYMBOL = pytest.mark.parametrize("request_", [0x80106C01, 0x40106C01])
OKIOCGVALUE = pytest.mark.parametrize("request_", [0x80106C02, 0x40106C02])
NETBSD_KIOCGSIZE = pytest.mark.parametrize("request_", [0x40046C03, 0x80046C03])
KIOCGVALUE, KIOCGSYMBOL = 0xC0106C04, 0xC0206C05

IMAGE = build_netbsd_image(files_of(ElfFormat()), ElfFormat())


def call(
    request: int,
    argument: int = 0,
    *,
    image: bytes = IMAGE,
    current: bytes | None = None,
    mapped_at: Callable[[], int] = lambda: 0x7F0000000000,
    tid: int | None = None,
) -> Ioctl:
    memory = Memory(os.getpid() if tid is None else tid, Aside())
    return Ioctl(
        request,
        argument,
        image,
        lambda: image if current is None else current,
        mapped_at,
        memory,
    )


class Structure:
    """A structure in this process's memory, whose first field points to a name."""

    def __init__(self, name: bytes, rest: bytes = b"", *, pointer: int = 8) -> None:
        self.name = ctypes.create_string_buffer(name)
        fields = ctypes.addressof(self.name).to_bytes(8, "little")[:pointer]
        self.buffer = ctypes.create_string_buffer(fields + rest, pointer + len(rest))

    @property
    def address(self) -> int:
        return ctypes.addressof(self.buffer)

    @property
    def bytes(self) -> bytes:
        return self.buffer.raw


def failure(flavor_call: Callable[[], bytes]) -> int | None:
    with pytest.raises(OSError) as caught:
        flavor_call()
    return caught.value.errno


def value_of(name: bytes) -> int:
    structure = Structure(name, bytes(8))
    answer = NETBSD.ioctl(call(KIOCGVALUE, structure.address))
    assert answer[:8] == structure.bytes[:8]
    return int(struct.unpack("=Q", answer[8:])[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"_stext", 0xFFFFFFFF81000000),
        (b"jiffies", 0xFFFFFFFF83000000),
        (b"Nft_register", 0xFFFFFFFFC0A01040),
        (b"per_cpu_offset", 0x40),
    ],
)
def test_kiocgvalue_puts_a_global_symbol_s_value_into_the_structure(
    name: bytes, value: int
) -> None:
    assert value_of(name) == value


@pytest.mark.parametrize(
    "name", [b"vfs_read", b"weak_function", b"nothing", b"stext", b""]
)
def test_kiocgvalue_finds_no_local_and_no_weak_symbol(name: bytes) -> None:
    structure = Structure(name, bytes(8))

    assert failure(lambda: NETBSD.ioctl(call(KIOCGVALUE, structure.address))) == (
        errno.ENOENT
    )


@pytest.mark.parametrize(
    ("name", "value", "info"),
    [
        (b"vfs_read", 0xFFFFFFFF81000100, 0x02),
        (b"weak_function", 0xFFFFFFFF81000180, 0x22),
        (b"nft_init", 0xFFFFFFFFC0A01000, 0x02),
    ],
)
def test_kiocgsymbol_puts_any_symbol_into_the_structure(
    name: bytes, value: int, info: int
) -> None:
    structure = Structure(name, bytes(24))

    answer = NETBSD.ioctl(call(KIOCGSYMBOL, structure.address))

    _, st_info, _, shndx, st_value, _ = struct.unpack("=IBBHQQ", answer[8:])
    assert answer[:8] == structure.bytes[:8]
    assert (st_value, st_info, shndx) == (value, info, 5)


@OKIOCGSYMBOL
def test_the_old_kiocgsymbol_puts_it_where_the_structure_points(request_: int) -> None:
    symbol = ctypes.create_string_buffer(24)
    structure = Structure(b"vfs_read", struct.pack("=Q", ctypes.addressof(symbol)))
    before = structure.bytes

    answer = NETBSD.ioctl(call(request_, structure.address))

    assert struct.unpack("=IBBHQQ", symbol.raw)[4] == 0xFFFFFFFF81000100
    # What Linux copies back for BSD's number leaves the structure as it was.
    assert answer == (before if request_ >> 31 else b"")


@OKIOCGVALUE
def test_the_old_kiocgvalue_puts_it_where_the_structure_points(request_: int) -> None:
    value = ctypes.c_ulong(0)
    structure = Structure(b"jiffies", struct.pack("=Q", ctypes.addressof(value)))

    NETBSD.ioctl(call(request_, structure.address))

    assert value.value == 0xFFFFFFFF83000000


@NETBSD_KIOCGSIZE
def test_netbsd_s_kiocgsize_is_an_int(request_: int) -> None:
    size = ctypes.c_int(0)

    answer = NETBSD.ioctl(call(request_, ctypes.addressof(size)))

    if request_ >> 31:
        assert answer == struct.pack("=i", len(IMAGE))
    else:
        assert (answer, size.value) == (b"", len(IMAGE))


def test_a_name_is_looked_up_in_the_symbols_of_now(freebsd_like: bytes) -> None:
    structure = Structure(b"added_later", bytes(8))
    request = call(KIOCGVALUE, structure.address, current=freebsd_like)

    answer = NETBSD.ioctl(request)

    assert struct.unpack("=Q", answer[8:])[0] == 0x2000


@pytest.fixture
def freebsd_like() -> bytes:
    fmt = ElfFormat()
    text = "0000000000001000 T _stext\n0000000000002000 T added_later\n"
    return build_netbsd_image(kallsyms_linker_files(text.encode(), [], fmt), fmt)


def test_the_first_table_wins_even_with_a_local_over_a_module_s_global() -> None:
    fmt = ElfFormat()
    text = "0000000000001000 t both\n0000000000001100 T _stext\n"
    text += "0000000000003000 t both\t[m]\n0000000000003100 T both\t[m]\n"
    module = Module("m", 0x1000, "Live", 0x3000)
    image = build_netbsd_image(kallsyms_linker_files(text.encode(), [module], fmt), fmt)
    structure = Structure(b"both", bytes(24))

    symbol = NETBSD.ioctl(call(KIOCGSYMBOL, structure.address, image=image))
    value = NETBSD.ioctl(call(KIOCGVALUE, structure.address, image=image))

    assert struct.unpack("=IBBHQQ", symbol[8:])[4] == 0x1000
    assert struct.unpack("=Q", value[8:16])[0] == 0x3100


def test_a_name_longer_than_any_that_there_is_is_too_long() -> None:
    longest = max(len(line.split()[2]) for line in KALLSYMS.splitlines())
    exact = Structure(b"x" * longest, bytes(8))
    longer = Structure(b"x" * (longest + 1), bytes(8))

    assert failure(lambda: NETBSD.ioctl(call(KIOCGVALUE, exact.address))) == (
        errno.ENOENT
    )
    assert failure(lambda: NETBSD.ioctl(call(KIOCGVALUE, longer.address))) == (
        errno.ENAMETOOLONG
    )


@pytest.mark.parametrize("request_", [KIOCGVALUE, KIOCGSYMBOL, 0x80106C01, 0x80106C02])
def test_a_bad_pointer_is_efault_wherever_it_is(request_: int) -> None:
    bad_name = ctypes.create_string_buffer(struct.pack("=QQ", 8, 8), 32)
    bad_result = Structure(b"jiffies", struct.pack("=Q", 8))

    assert failure(lambda: NETBSD.ioctl(call(request_, 8))) == errno.EFAULT
    address = ctypes.addressof(bad_name)
    assert failure(lambda: NETBSD.ioctl(call(request_, address))) == errno.EFAULT
    if request_ < 0xC0000000:
        address = bad_result.address
        assert failure(lambda: NETBSD.ioctl(call(request_, address))) == errno.EFAULT


def test_a_name_that_ends_with_its_page_is_read() -> None:
    page = ctypes.CDLL(None).mmap
    page.restype = ctypes.c_void_p
    length = 2 * 4096
    # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    base = page(None, ctypes.c_size_t(length), 3, 0x22, -1, ctypes.c_long(0))
    ctypes.CDLL(None).munmap(ctypes.c_void_p(base + 4096), ctypes.c_size_t(4096))
    ctypes.memmove(base + 4096 - 8, b"jiffies\0", 8)
    structure = ctypes.create_string_buffer(struct.pack("=QQ", base + 4096 - 8, 0), 16)

    answer = NETBSD.ioctl(call(KIOCGVALUE, ctypes.addressof(structure)))

    assert struct.unpack("=Q", answer[8:])[0] == 0xFFFFFFFF83000000


@pytest.mark.parametrize(
    "request_",
    [
        *(0x40086C01, 0x80086C01, 0x40086C03, 0xC0106C03, 0x40106C04, 0xC0186C04),
        *(0xC0206C06, 0x00006C03, 0x40046D03, 0xC0186C05, 0, 0xFFFFFFFF),
    ],
    ids=hex,
)
def test_a_request_that_netbsd_does_not_know_is_enotty(request_: int) -> None:
    # An ILP32 structure of the old pair: two pointers of four bytes.
    is_ilp32 = request_ in (0x40086C01, 0x80086C01)
    expected = errno.EFAULT if is_ilp32 else errno.ENOTTY

    assert failure(lambda: NETBSD.ioctl(call(request_, 8))) == expected


def test_a_caller_that_cannot_be_seen_has_no_pointers_followed() -> None:
    structure = Structure(b"jiffies", bytes(8))
    request = call(KIOCGVALUE, structure.address, tid=0)

    assert failure(lambda: NETBSD.ioctl(request)) == errno.ENOTTY


@pytest.mark.parametrize("request_", [0x80086C01, 0x40046C03, 0, KIOCGVALUE], ids=hex)
def test_illumos_has_no_ioctl_at_all(request_: int) -> None:
    assert failure(lambda: ILLUMOS.ioctl(call(request_))) == errno.ENXIO


@pytest.mark.parametrize("request_", [0x80086C01, 0x40086C01, 0x80046C01, 0x40046C01])
def test_freebsd_s_kiocgsize_is_the_exact_size(request_: int) -> None:
    size = ctypes.c_uint64(0)

    answer = FREEBSD.ioctl(call(request_, ctypes.addressof(size)))

    told = answer or bytes(size)[: request_ >> 16 & 0xFF]
    assert int.from_bytes(told, "little") == len(IMAGE)


def test_freebsd_s_kiocgaddr_is_where_the_caller_has_it_mapped() -> None:
    assert FREEBSD.ioctl(call(0x80086C02)) == struct.pack("=Q", 0x7F0000000000)
    assert failure(lambda: FREEBSD.ioctl(call(0x80046C02))) == errno.EOVERFLOW


@pytest.mark.parametrize(
    ("flavor", "mode", "is_exclusive", "write_errno"),
    [
        ("freebsd", 0o400, True, errno.EACCES),
        ("netbsd", 0o444, False, errno.EROFS),
        ("illumos", 0o666, False, errno.ENXIO),
    ],
)
def test_each_flavor_has_its_mode_and_its_open_rule(
    flavor: str, mode: int, is_exclusive: bool, write_errno: int
) -> None:
    found = FLAVORS[flavor]

    assert (found.mode, found.is_exclusive, found.write_errno) == (
        mode,
        is_exclusive,
        write_errno,
    )
