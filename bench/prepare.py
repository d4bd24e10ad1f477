"""What the measurements work on: the peers that are here, tables, images, questions."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from bench.probe import DISTRIBUTION, build
from bench.synthetic import kallsyms_table

HERE = Path(__file__).resolve().parent
MODULES = 200

# C program -> what it is linked with, the compiler's options, the Debian package.
_C_PEERS = {
    "floor": ((), (), "gcc"),
    "build_image": ((), (), "gcc"),
    "bsearch": ((), (), "gcc"),
    "open_device": ((), (), "gcc"),
    "libelf_load": (("-lelf",), (), "libelf-dev"),
    "btf_parse": (("-lbpf",), (), "libbpf-dev"),
    "hello_fs2": (("-lfuse",), ("-DFUSE=2",), "libfuse-dev"),
    "hello_fs3": (("-lfuse3",), ("-DFUSE=3",), "libfuse3-dev"),
}
_PROGRAMS = {"nm": "binutils", "perf": "linux-perf"}
_LIBRARIES = {"elftools": "pyelftools", "lief": "lief", "drgn": "drgn"}
_NO_PACKAGE = "Rust; neither Debian nor PyPI has it. See the note on its figure"


@dataclass
class Bench:
    """Where everything is, and which peers are missing, with the reason."""

    directory: Path
    kallsyms: Path
    is_live: bool
    missing: dict[str, str] = field(default_factory=dict)
    tables: dict[int, Path] = field(default_factory=dict)
    """Kallsyms tables by their number of symbols."""

    @property
    def image(self) -> Path:
        return self.directory / "kernel.ksyms"

    @property
    def mounts(self) -> Path:
        """Where file systems are mounted."""
        return self.directory / "mounts"

    @property
    def addresses(self) -> Path:
        """A million random addresses inside functions, as uint64."""
        return self.directory / "addresses"

    @property
    def hot(self) -> Path:
        """A million out of 5,000 addresses."""
        return self.directory / "hot_addresses"

    @property
    def names(self) -> Path:
        """Names that only one symbol has, in random order, one a line."""
        return self.directory / "names"

    @property
    def trace(self) -> Path:
        """A trace with kernel addresses in most lines."""
        return self.directory / "trace"

    @property
    def short_trace(self) -> Path:
        """The first tenth of it."""
        return self.directory / "short_trace"

    def program(self, name: str) -> str:
        """The path of a compiled C program."""
        return str(self.directory / name)

    def first_address(self) -> str:
        """One of the addresses, in hexadecimal."""
        return f"{array('Q', self.addresses.read_bytes()[:8])[0]:x}"

    def first_name(self) -> str:
        """One of the names."""
        return self.names.read_text().partition("\n")[0]


def prepare(
    directory: Path, kallsyms: Path, sizes: list[int], trace_size: int
) -> Bench:
    """Make everything that the measurements need below *directory*.

    *kallsyms* is copied first: whoever is measured reads the same bytes. *sizes* are
    those of the synthetic tables, in symbols; *trace_size* is in bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = kallsyms.read_bytes()
    bench = Bench(directory, directory / "kallsyms", str(kallsyms) == "/proc/kallsyms")
    bench.kallsyms.write_bytes(text)
    build(str(bench.kallsyms), str(bench.image))
    bench.tables[text.count(b"\n")] = bench.kallsyms
    for size in sizes:
        table = directory / f"kallsyms_{size}"
        if not table.exists():
            table.write_bytes(kallsyms_table(size, MODULES))
        bench.tables[size] = table
    _questions(bench)
    _write_trace(bench, trace_size)
    _find_peers(bench)
    return bench


def _questions(bench: Bench) -> None:
    import ksyms  # not above: who imports this only to start programs stays small

    rng = random.Random(2)
    kernel = [s for s in ksyms.load(bench.image) if s.size and s.module is None]
    # drgn gives no symbol more than 64 KiB, and none in a module from kallsyms.
    usual = [s for s in kernel if s.size < 0x10000]
    some = [s.address + rng.randrange(s.size) for s in rng.choices(usual, k=1_000_000)]
    bench.addresses.write_bytes(array("Q", some).tobytes())
    bench.hot.write_bytes(array("Q", rng.choices(some[:5000], k=1_000_000)).tobytes())
    seen: dict[str, int] = {}
    for symbol in kernel:
        seen[symbol.name] = seen.get(symbol.name, 0) + 1
    names = [name for name, count in seen.items() if count == 1]
    rng.shuffle(names)
    bench.names.write_text("\n".join(names) + "\n")


def _write_trace(bench: Bench, size: int) -> None:
    # As ftrace's stack traces and lock traces are: most lines have one address.
    if bench.trace.exists() and bench.trace.stat().st_size >= size:
        return
    rng = random.Random(3)
    hot = array("Q", bench.hot.read_bytes())
    block = []
    for number in range(100_000):
        when = f"{rng.randrange(10**6)}.{rng.randrange(10**6):06}"
        if number % 5 == 0:
            block.append(f"  worker-{rng.randrange(9999)} [001] d.h1. {when}: <stack>")
        else:
            block.append(f" => {hot[number]:#x} <- {rng.randrange(2**32):#x} {when}")
    data = ("\n".join(block) + "\n").encode()
    for path, length in ((bench.short_trace, size // 10), (bench.trace, size)):
        with path.open("wb") as file:
            for _ in range(-(-length // len(data))):
                file.write(data)


def _find_peers(bench: Bench) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    for name, (libraries, options, package) in _C_PEERS.items():
        if compiler is None:
            bench.missing[name] = "no C compiler (Debian: gcc)"
            continue
        source = HERE / "peers" / f"{name.rstrip('23')}.c"
        made = subprocess.run(
            [
                *(compiler, "-O2", "-D_FILE_OFFSET_BITS=64", *options),
                *("-o", bench.program(name), str(source), *libraries),
            ],
            capture_output=True,
            check=False,
        )
        if made.returncode != 0:
            bench.missing[name] = f"does not compile (Debian: {package})"
    for program, package in _PROGRAMS.items():
        if not shutil.which(program):
            bench.missing[program] = f"not installed (Debian: {package})"
    for module, package in _LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            bench.missing[package] = f"not installed (pip install {package})"
    if not Path(DISTRIBUTION, "bcc").is_dir():
        bench.missing["bcc"] = "not installed (Debian: python3-bpfcc)"
    bench.missing["blazesym"] = _NO_PACKAGE
    live = ("floor", "open_device", "bcc", "drgn", "perf")
    for name in live if os.geteuid() != 0 else ():
        bench.missing.setdefault(name, "needs root")
    for name in live if not bench.is_live else ():
        bench.missing.setdefault(name, "reads the running kernel only")


def python(*arguments: str) -> list[str]:
    """The command of a Python program, by the interpreter that runs this."""
    return [sys.executable, *arguments]
