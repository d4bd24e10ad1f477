"""python -m bench: measure, and write the results beside this file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench import chart, report
from bench.goals import goals
from bench.measure import ProbeError, Results, busy
from bench.prepare import prepare
from bench.suite import GROUPS, told

_HERE = Path(__file__).resolve().parent


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ksymsfs and ksyms beside what people use instead.",
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument(
        "--only", action="append", choices=list(GROUPS), help="repeat for several"
    )
    parser.add_argument(
        "--kallsyms", type=Path, default=Path("/proc/kallsyms"), metavar="FILE",
        help="another kernel's table: leaves out what works on the running one only",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=_sizes, default=[250_000, 1_000_000], metavar="N,N",
        help="symbols in the synthetic tables (default: 250000,1000000)",
    )  # fmt: skip
    parser.add_argument("--trace", type=int, default=100_000_000, metavar="BYTES")
    parser.add_argument("--build", type=Path, default=_HERE / "build", metavar="DIR")
    parser.add_argument("--output", type=Path, default=_HERE, metavar="DIR")
    return parser


def _sizes(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the results and print them; 1 when something failed to run."""
    args = parser().parse_args(argv)
    before = busy()
    # In a process of its own, so that this one stays small: commands inherit its size.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        bench = pool.submit(
            prepare, args.build, args.kallsyms, args.sizes, args.trace
        ).result()
    results = Results()
    status = 0
    for name in args.only or GROUPS:
        try:
            with told(name):
                GROUPS[name](bench, results, args.rounds)
        except ProbeError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            bench.missing[f"the rest of group {name}"] = str(error).splitlines()[-1]
            status = 1
    verdicts = report.judge(goals(sorted(bench.tables)), results)
    everything = report.as_json(
        verdicts, results, bench.missing, rounds=args.rounds, load=(before, busy())
    )
    args.output.mkdir(parents=True, exist_ok=True)
    report.write(everything, args.output)
    (args.output / "results.svg").write_text(chart.chart(everything))
    print(report.as_text(everything), end="")
    return status


if __name__ == "__main__":
    sys.exit(main())
