"""The running kernel's image and client, against the kernel's own answers."""

from __future__ import annotations

import errno
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ksyms
from ksymsfs.image import build_image
from ksymsfs.sources.running import RunningKernel
from tests.integration.server import environment
from tests.oracle import Oracle, program

pytestmark = pytest.mark.kernel

KALLSYMS = Path("/proc/kallsyms")


@pytest.fixture(scope="module")
def image() -> bytes:
    source = RunningKernel()
    try:
        return build_image(source.linker_files(), source.format)
    finally:
        source.close()


@pytest.fixture(scope="module")
def table(image: bytes) -> ksyms.SymbolTable:
    return ksyms.SymbolTable.from_bytes(image)


@pytest.fixture(scope="module")
def lines() -> list[tuple[int, str, str, str | None]]:
    return [
        (int(f[0], 16), f[1], f[2], f[3][1:-1] if len(f) > 3 else None)
        for f in map(str.split, KALLSYMS.read_text().splitlines())
    ]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    try:
        kernel = Oracle("%pS")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel is too old to be asked: no BPF syscall programs")
    with kernel:
        yield kernel


def test_the_image_has_every_line_of_kallsyms_exactly_once(
    table: ksyms.SymbolTable, lines: list[tuple[int, str, str, str | None]]
) -> None:
    ours = Counter((s.address, s.nm_type, s.name, s.module) for s in table)

    assert ours == Counter(lines)


def test_nm_in_address_order_equals_the_kernels_table_line_for_line(
    image: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "ksyms.elf"
    path.write_bytes(image)

    nm = subprocess.run(
        ["python3", "-m", "ksyms", "-k", str(path), "nm", "-n"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    ).stdout

    # /proc/kallsyms is sorted by address but for the modules' parts.
    expected = sorted(
        KALLSYMS.read_text().splitlines(keepends=True), key=lambda line: line[:16]
    )
    assert nm.splitlines(keepends=True) == expected


@pytest.mark.bpf
def test_symbolize_agrees_with_the_kernels_own_pS(
    table: ksyms.SymbolTable,
    lines: list[tuple[int, str, str, str | None]],
    oracle: Oracle,
) -> None:
    # Pages of ftrace and kprobes are listed in kallsyms, but %pS does not know them.
    known = [x for x in lines if x[3] is None]
    counts = Counter(x[0] for x in known)
    starts = sorted(counts)
    chosen = [a for a in starts if counts[a] > 1]
    assert chosen
    chosen += random.Random(6).sample(starts, 800)
    addresses = []
    for address in chosen:
        after = starts[min(starts.index(address) + 1, len(starts) - 1)]
        addresses += [address, address + 1, (address + after) // 2, after - 1]
    # Where text ends, between its parts, and around the whole kernel.
    edges = {x[2]: x[0] for x in known}
    for name in ("_text", "_stext", "_etext", "_sinittext", "_einittext", "_end"):
        if name in edges:
            addresses += [edges[name] + d for d in (-1, 0, 1, 0x1000, 0x100000)]
    addresses += [0, 1, 0x1000, 1 << 47, starts[0] - 1, starts[-1] + 1, 2**64 - 1]
    # Per-CPU symbols start at 0.
    addresses = [a for a in addresses if a >= 0]

    answers = {
        a: str(s) if s else f"{a:#x}"
        for a, s in zip(addresses, table.symbolize_all(addresses), strict=True)
    }

    assert len(answers) > 2000
    differences = {
        f"{a:#x}": (answer, oracle(a))
        for a, answer in answers.items()
        if answer != oracle(a)
    }
    assert differences == {}


@pytest.mark.bpf
def test_bpf_programs_have_the_kernels_own_sizes(oracle: Oracle) -> None:
    with program("ksymsfs_one"), program("ksymsfs_two"):
        source = RunningKernel()
        files = source.linker_files()
        source.close()
        table = ksyms.SymbolTable.from_bytes(build_image(files, source.format))

        ours = [s for s in table if s.module == "bpf" and "ksymsfs_" in s.name]
        assert len(ours) == 2
        for symbol in ours:
            for address in (symbol.address, symbol.address + symbol.size - 1):
                # %pS leaves out the module that kallsyms has for it.
                assert str(table.symbolize(address)) == f"{oracle(address)} [bpf]"
            with pytest.raises(ksyms.AddressNotFoundError):
                table.symbolize(symbol.address + symbol.size)
