"""Builds BPF objects of the tests' C sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.ksyms import bpf_cases

_CLANG = [
    "clang-19",
    "-g",
    "-O2",
    "--target=bpf",
    "-mcpu=v3",
    "-nostdinc",
    "-Wno-everything",
    "-c",
]


def build(folder: Path, name: str, source: str) -> Path:
    """NAME.o of *source*, which may include the cases' mini.h."""
    (folder / "mini.h").write_bytes(bpf_cases.archive()["src/mini.h"])
    path = folder / f"{name}.bpf.c"
    path.write_text(source)
    target = folder / f"{name}.o"
    subprocess.run([*_CLANG, path, "-o", target], check=True)
    return target
