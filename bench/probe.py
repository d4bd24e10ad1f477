"""The Python programs that are measured: ``python -m bench.probe NAME ARGUMENT...``.

Each does what somebody would do with the library that it is named after, and reports
the part that counts, imports excluded, as bench/peers/probe.h does.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PROBES: dict[str, Callable[..., int]] = {}
DISTRIBUTION = "/usr/lib/python3/dist-packages"


def probe(function: Callable[..., int]) -> Callable[..., int]:
    """Make *function*, which returns how many operations it timed, a probe."""
    PROBES[function.__name__] = function
    return function


class _Timer:
    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self.rss = 0

    def __enter__(self) -> None:
        self.rss = _status("VmRSS")
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time()
        self.wall += time.perf_counter()


timer = _Timer()


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def _addresses(path: str, count: int) -> list[int]:
    data = array("Q", Path(path).read_bytes())
    return data[: int(count)].tolist()


def _consume(answers: Iterable[object]) -> None:
    deque(answers, 0)


# -- making the image


@probe
def build(path: str, output: str = "") -> int:
    """ksymsfs: kallsyms bytes -> image."""
    from ksymsfs.elf import ElfFormat
    from ksymsfs.image import build_image
    from ksymsfs.sources.kallsyms import kallsyms_linker_files

    text, fmt = Path(path).read_bytes(), ElfFormat(64, "little", 62)
    with timer:
        image = build_image(kallsyms_linker_files(text, None, fmt), fmt)
    if output:
        Path(output).write_bytes(image)
    return 1


# -- loading it, and the first answer


@probe
def load_ksyms(path: str, address: str) -> int:
    from ksyms import load

    with timer:
        str(load(path).symbolize(int(address, 16)))
    return 1


@probe
def load_pyelftools(path: str) -> int:
    from elftools.elf.elffile import ELFFile

    with timer, open(path, "rb") as file:
        section: Any = ELFFile(file).get_section_by_name(".symtab")
        _consume(section.iter_symbols())
    return 1


@probe
def load_lief(path: str) -> int:
    import lief

    with timer:
        binary: Any = lief.ELF.parse(path)
        _consume((s.name, s.value) for s in binary.symtab_symbols)
    return 1


@probe
def load_drgn(address: str) -> int:
    with timer:
        _drgn().symbol(int(address, 16))
    return 1


@probe
def load_bcc(address: str) -> int:
    bpf = _bcc()
    with timer:
        bpf.ksym(int(address, 16))
    return 1


def _drgn() -> Any:
    import drgn
    from drgn.helpers.linux.kallsyms import _load_proc_kallsyms

    program = drgn.Program()
    program.register_symbol_finder("kallsyms", _load_proc_kallsyms(), enable_index=0)
    return program


def _bcc() -> Any:
    # Debian's package belongs to Debian's Python, but is nothing but Python.
    sys.path.append(DISTRIBUTION)
    from bcc import BPF

    return BPF


# -- address -> symbol and offset


@probe
def symbolize_ksyms(path: str, addresses: str, count: int, passes: int = 1) -> int:
    """The peers load everything first; here the first pass of two does that."""
    import ksyms

    wanted = _addresses(addresses, count)
    table = ksyms.load(path)
    if int(passes) > 1:
        _consume(map(table.symbolize, wanted))
    with timer:
        for address in wanted:
            table.symbolize(address)
    return len(wanted)


@probe
def symbolize_drgn(addresses: str, count: int) -> int:
    wanted = _addresses(addresses, count)
    program = _drgn()
    program.symbol(wanted[0])
    with timer:
        for address in wanted:
            symbol = program.symbol(address)
            (symbol, address - symbol.address)
    return len(wanted)


@probe
def symbolize_bcc(addresses: str, count: int) -> int:
    wanted = _addresses(addresses, count)
    bpf = _bcc()
    bpf.ksym(wanted[0])
    with timer:
        for address in wanted:
            bpf.ksym(address, show_offset=True)
    return len(wanted)


@probe
def symbolize_array(path: str, addresses: str) -> int:
    import numpy as np

    import ksyms

    wanted = np.fromfile(addresses, np.uint64)
    table = ksyms.load(path)
    table.symbolize_array(wanted[:10])
    with timer:
        table.symbolize_array(wanted)
    return len(wanted)


@probe
def symbolize_list(path: str, addresses: str, count: int) -> int:
    import ksyms

    wanted = _addresses(addresses, count)
    table = ksyms.load(path)
    table.symbolize(wanted[0])
    with timer:
        list(table.symbolize_all(wanted))
    return len(wanted)


# -- name -> address


def _names(path: str, count: int) -> list[str]:
    return Path(path).read_text().split()[: int(count)]


@probe
def lookup_ksyms(path: str, names: str, count: int, passes: int = 1) -> int:
    """As symbolize_ksyms."""
    import ksyms

    wanted = _names(names, count)
    table = ksyms.load(path)
    if int(passes) > 1:
        _consume(map(table.lookup, wanted))
    with timer:
        for name in wanted:
            table.lookup(name)
    return len(wanted)


@probe
def lookup_drgn(names: str, count: int) -> int:
    wanted = _names(names, count)
    program = _drgn()
    program.symbol(wanted[0])
    with timer:
        for name in wanted:
            program.symbol(name)
    return len(wanted)


@probe
def lookup_bcc(names: str, count: int) -> int:
    wanted = [name.encode() for name in _names(names, count)]
    bpf = _bcc()
    bpf.ksymname(wanted[0])
    with timer:
        for name in wanted:
            bpf.ksymname(name)
    return len(wanted)


# -- the rest


@probe
def annotate_bcc(path: str) -> int:
    """What people write: every address of a trace replaced by bcc's answer."""
    import re

    bpf = _bcc()
    bpf.ksym(0xFFFFFFFF81000000)
    address = re.compile(rb"\b(?:0x)?f[0-9a-f]{15}\b")

    def name(match: re.Match[bytes]) -> bytes:
        return bytes(bpf.ksym(int(match[0], 16), show_offset=True))

    with timer, open(path, "rb") as trace, open("/dev/null", "wb") as out:
        for line in trace:
            out.write(address.sub(name, line))
    return 1


@probe
def btf(path: str, name: str) -> int:
    from ksyms.btf_types import Kind
    from ksyms.vmlinux import load_btf

    with timer:
        load_btf(path, name="vmlinux").lookup(name, Kind.STRUCT)
    return 1


def main() -> None:
    """Run the probe that the command line names, and report."""
    operations = PROBES[sys.argv[1]](*sys.argv[2:])
    peak = _status("VmHWM")
    print(
        json.dumps(
            {
                "cpu": timer.cpu,
                "wall": timer.wall,
                "ops": operations,
                "rss": peak,
                "grown": peak - timer.rss,
            }
        )
    )


if __name__ == "__main__":
    main()
