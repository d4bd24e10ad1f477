"""Objects of every shape, against what libbpf 1.7 and a kernel said to them."""

from __future__ import annotations

import tarfile
from functools import cache

import pytest

from ksyms.bpf.object import BpfObject
from ksyms.destructors import load_destructors
from ksyms.kernel import Kernel
from ksyms.kptr_check import KptrChecker
from ksyms.resolution import resolve
from tests.ksyms import bpf_cases, libbpf_said
from tests.ksyms.kernels import recorded_kernel
from tests.ksyms.libbpf_said import Said

RECORD = bpf_cases.CASES.parent / "libbpf" / "said.tar.xz"


@cache
def archive() -> dict[str, bytes]:
    with tarfile.open(RECORD) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in members.items() if file}


def names(suffix: str = ".o") -> list[str]:
    return [n.removesuffix(suffix) for n in archive() if n.endswith(suffix)]


def case(name: str) -> tuple[BpfObject, Said]:
    text = archive()[f"{name}.said"].decode(errors="surrogateescape")
    return BpfObject.from_bytes(archive()[f"{name}.o"], name=name), Said.parse(text)


@cache
def kernel() -> Kernel:
    known = recorded_kernel("kernel")
    types = load_destructors(bpf_cases.CASES / "tables" / "dtor_targets.json")
    return Kernel(
        name="6.18",
        symbols=known.symbols,
        btf=known.btf,
        facts=known.facts._replace(destructors=types._replace(found_by="probe")),
    )


@cache
def checker() -> KptrChecker:
    return KptrChecker(kernel())


@pytest.mark.parametrize("name", names())
def test_libbpf_1_7_said_the_same(name: str) -> None:
    obj, said = case(name)

    assert list(libbpf_said.about_opening(obj, said)) == []
    if obj.failures:
        return
    answer = resolve(obj, kernel())
    assert list(libbpf_said.about_maps(obj, said)) == []
    assert list(libbpf_said.about_externs(answer, said)) == []
    assert list(libbpf_said.about_instructions(answer, said)) == []
    if answer.is_ok:
        kptrs = checker().check(obj)
        assert list(libbpf_said.about_fields(kptrs, said)) == []
