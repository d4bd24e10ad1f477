"""The recorded BPF cases in tests/data/bpf_cases: objects, tables, expected results."""

from __future__ import annotations

import json
import lzma
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

from ksyms.btf import Btf

CASES = Path(__file__).resolve().parent.parent / "data" / "bpf_cases"


@cache
def archive() -> dict[str, bytes]:
    """objects/*.o, objects-eb/*.o (big endian) and src/*.bpf.c by path."""
    with tarfile.open(CASES / "objects.tar.xz") as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in members.items() if file}


def object_names() -> list[str]:
    return sorted(
        path.removeprefix("objects/")
        for path in archive()
        if path.startswith("objects/")
    )


def object_bytes(name: str) -> bytes:
    return archive()[f"objects/{name}"]


@cache
def table(name: str) -> bytes:
    """A file of tables/, unpacked; FileNotFoundError for the table that misses."""
    path = CASES / "tables" / name
    if path.exists():
        return path.read_bytes()
    return lzma.decompress(path.with_name(f"{name}.xz").read_bytes())


@cache
def vmlinux() -> Btf:
    """The BTF of the kernel that the recorded results come from."""
    return Btf.from_bytes(table("vmlinux.btf"), name="vmlinux")


def recorded(name: str) -> Any:
    """expected_ksym, expected_kptr, raw_btf or layouts."""
    return json.loads((CASES / f"{name}.json").read_text())
