"""What is measured: groups of items that take turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.measure import Item, Results, Sample, run, run_rounds, say
from bench.prepare import Bench, python
from bench.servers import ENVIRONMENT, Server, hello_fs, ksymsfs

BTF = "/sys/kernel/btf/vmlinux"
GENERATIONS = 100
READERS = 40

Group = Callable[[Bench, Results, int], None]


def _probe(name: str, probe: str, *arguments: object, **options: object) -> Item:
    command = python("-m", "bench.probe", probe, *map(str, arguments))
    return Item(name, command, env=ENVIRONMENT, **options)  # type: ignore[arg-type]


class _Items:
    # The items of a group whose peers are here.
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.items: list[Item] = []

    def probe(
        self, name: str, probe: str, *arguments: object, needs: str = "",
        rounds: int = 1000,
    ) -> None:  # fmt: skip
        if needs not in self._bench.missing:
            self.items.append(_probe(name, probe, *arguments, rounds=rounds))

    def program(
        self, name: str, program: str, *arguments: object, cpu: int | None = None
    ) -> None:
        if program not in self._bench.missing:
            command = [self._bench.program(program), *map(str, arguments)]
            self.items.append(Item(name, command, cpu=cpu))

    def command(
        self, name: str, *words: str, needs: str = "", stdin: Path | None = None,
        rounds: int = 1000,
    ) -> None:  # fmt: skip
        if needs not in self._bench.missing:
            self.items.append(
                Item(
                    name, words, whole=True, env=ENVIRONMENT, stdin=stdin, rounds=rounds
                )
            )


# -- the device


def device(bench: Bench, results: Results, rounds: int) -> None:
    """Opens and reads, unchanged and changed, by one and by many."""
    # Both ends of each request on one processor: else it depends on where the
    # scheduler puts them whether a round trip takes 10 us or 50.
    cpu = min(os.sched_getaffinity(0))
    if "open_device" in bench.missing:
        return
    with ExitStack() as stack:
        warm, cold = _Items(bench), _Items(bench)
        for items in (warm, cold):
            items.program("floor: read /proc/kallsyms", "floor", "/proc/kallsyms")
        for libfuse in (2, 3):
            c, ours = f"C libfuse{libfuse}", f"ksymsfs libfuse{libfuse}"
            served = _mount(stack, bench, libfuse, cpu)
            if f"hello_fs{libfuse}" in served:
                server = served[f"hello_fs{libfuse}"]
                for path, what in (("hello", "a file"), ("ksyms", "a link to it")):
                    where = server.mountpoint / path
                    warm.program(
                        f"{c}: open + close, {what}",
                        *("open_device", "open", 500, where, server.pid),
                        cpu=cpu,
                    )
            server = served["ksymsfs"]
            where = server.mountpoint.parent / "device"
            for items, name, what, count in (
                (warm, "open + close", "open", 500),
                (warm, "open + read, unchanged", "read", 100),
                (cold, "open + read, changed", "change", 3),
            ):
                items.program(
                    f"{ours}: {name}",
                    *("open_device", what, count, where, server.pid),
                    cpu=cpu,
                )
            warm.program(
                f"{ours}: {READERS} readers at once",
                *("open_device", "readers", READERS, where, server.pid),
            )
        run_rounds(cold.items, rounds, results)
        # The generation is settled, and reads nothing again, a second later.
        time.sleep(1.5)
        run_rounds(warm.items, rounds, results)
    _memory(bench, results)


def _mount(stack: ExitStack, bench: Bench, libfuse: int, cpu: int) -> dict[str, Server]:
    served = {}
    name = f"hello_fs{libfuse}"
    if name not in bench.missing:
        served[name] = stack.enter_context(
            hello_fs(bench.program(name), bench.image, bench.mounts / name, cpu)
        )
    served["ksymsfs"] = stack.enter_context(
        ksymsfs(bench.mounts / f"ksymsfs{libfuse}", libfuse, cpu)
    )
    return served


def _memory(bench: Bench, results: Results) -> None:
    # The server's resident set when 100 generations have come and gone.
    with ksymsfs(bench.mounts / "ksymsfs2", 2, None) as server:
        where = str(server.mountpoint.parent / "device")
        command = (bench.program("open_device"), "change", str(GENERATIONS), where)
        run(Item("generations", (*command, str(server.pid))))
        time.sleep(1.5)
        run(Item("settle", (bench.program("floor"), where)))
        time.sleep(0.5)
        rss = server.rss()
    name = f"ksymsfs: idle after {GENERATIONS} generations"
    results.add(name, 0, Sample(0, 0, 1, rss, 0))


# -- making the image


def build(bench: Bench, results: Results, rounds: int) -> None:
    """Kallsyms bytes to an image, at every size."""
    for size, table in bench.tables.items():
        items = _Items(bench)
        items.program(f"C: build, {size} symbols", "build_image", table)
        items.probe(f"ksymsfs: build, {size} symbols", "build", table)
        run_rounds(items.items, rounds, results)


# -- the client


def load(bench: Bench, results: Results, rounds: int) -> None:
    """From an image on disk (or the kernel's table) to the first answer."""
    items = _Items(bench)
    image, address = bench.image, bench.first_address()
    items.program("libelf: load + first symbolize", "libelf_load", image, address)
    items.probe("ksyms: load + first symbolize", "load_ksyms", image, address)
    items.probe("lief: load", "load_lief", image, needs="lief")
    items.probe("drgn: load + first symbolize", "load_drgn", address, needs="drgn")
    items.probe("bcc: load + first symbolize", "load_bcc", address, needs="bcc")
    items.probe(
        "pyelftools: iter_symbols", "load_pyelftools", image,
        needs="pyelftools", rounds=3,
    )  # fmt: skip
    run_rounds(items.items, rounds, results)


def symbolize(bench: Bench, results: Results, rounds: int) -> None:
    """Address to symbol and offset, name to symbol."""
    items = _Items(bench)
    image, addresses, hot, names = bench.image, bench.addresses, bench.hot, bench.names
    one, few = 200_000, 20_000
    items.probe("ksyms: symbolize", "symbolize_ksyms", image, addresses, one, 2)
    items.probe("ksyms: symbolize, at first", "symbolize_ksyms", image, addresses, one)
    items.probe("drgn: symbolize", "symbolize_drgn", addresses, one, needs="drgn")
    items.probe("bcc: symbolize", "symbolize_bcc", addresses, one, needs="bcc")
    items.probe("ksyms: lookup", "lookup_ksyms", image, names, few, 2)
    items.probe("ksyms: lookup, at first", "lookup_ksyms", image, names, few)
    items.probe("drgn: lookup", "lookup_drgn", names, few, needs="drgn")
    items.probe("bcc: lookup", "lookup_bcc", names, 5, needs="bcc", rounds=3)
    items.program("C bsearch: random addresses", "bsearch", image, addresses)
    items.probe("ksyms: array of addresses", "symbolize_array", image, addresses)
    items.probe("ksyms: list of hot addresses", "symbolize_list", image, hot, 10**6)
    items.probe("bcc: hot addresses", "symbolize_bcc", hot, one, needs="bcc")
    run_rounds(items.items, rounds, results)


def btf(bench: Bench, results: Results, rounds: int) -> None:
    """The BTF of vmlinux, and the first look-up in it."""
    if not Path(BTF).exists():
        return
    items = _Items(bench)
    items.program("libbpf: load BTF + lookup", "btf_parse", BTF, "task_struct")
    items.probe("ksyms: load BTF + lookup", "btf", BTF, "task_struct")
    run_rounds(items.items, rounds, results)


# -- the commands


def commands(bench: Bench, results: Results, rounds: int) -> None:
    """Whole commands, from the start of the process."""
    items = _Items(bench)
    ours = (*python(str(_launcher(bench))), "-k", str(bench.image))
    address, name = bench.first_address(), bench.first_name()
    items.command("python3 -c pass", *python("-c", "pass"))
    items.command("ksyms addr2sym", *ours, "addr2sym", address)
    items.command("perf kallsyms", "perf", "kallsyms", name, needs="perf")
    items.command("ksyms nm", *ours, "nm")
    items.command("nm", "nm", str(bench.image), needs="nm")
    run_rounds(items.items, rounds, results)


def annotate(bench: Bench, results: Results, rounds: int) -> None:
    """A large trace through the filter."""
    items = _Items(bench)
    ours = (*python(str(_launcher(bench))), "-k", str(bench.image))
    items.command("ksyms annotate", *ours, "annotate", stdin=bench.trace)
    items.command("ksyms annotate, a tenth", *ours, "annotate", stdin=bench.short_trace)
    items.probe("bcc: annotate", "annotate_bcc", bench.trace, needs="bcc")
    run_rounds(items.items, min(rounds, 3), results)


def _launcher(bench: Bench) -> Path:
    # What pip makes of the entry point: python -m would read more of the library.
    path = bench.directory / "ksyms"
    path.write_text("import sys\nfrom ksyms.cli import command\nsys.exit(command())\n")
    return path


GROUPS: dict[str, Group] = {
    "device": device,
    "build": build,
    "load": load,
    "symbolize": symbolize,
    "btf": btf,
    "commands": commands,
    "annotate": annotate,
}


@contextmanager
def told(name: str) -> Iterator[None]:
    """Say which group is running, on a terminal."""
    say(f"measuring: {name}")
    yield
    say("")
