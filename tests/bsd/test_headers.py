"""What is laid out here by hand, against the BSDs' own headers (see record.py)."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ksyms import device
from ksymsfs import freebsd, mountpoint, netbsd
from ksymsfs.sources import kld
from tests.bsd.record import TARGETS, Facts, facts, recorded
from tests.integration.server import environment

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "client" / "include"

FREEBSD = [target for target in TARGETS["freebsd"] if not target.startswith("x86-")]
"""Those where a long has 64 bits, as in ctypes here."""


def layout(structure: type[ctypes.Structure], tag: str) -> Facts:
    """What a header would say of *structure*, were it its `struct TAG`."""
    found = {tag: [0, ctypes.sizeof(structure)]}
    for name, *_ in structure._fields_:
        field = getattr(structure, name)
        found[f"{tag}.{name}"] = [field.offset, field.size]
    return found


def of(tag: str, headers: Facts) -> Facts:
    """The facts of `struct TAG` alone."""
    return {k: v for k, v in headers.items() if k == tag or k.startswith(f"{tag}.")}


def by_linux(request: int) -> int:
    """The number that Linux's macros make of what is *request* by BSD's."""
    return request if request >> 30 == 3 else request ^ 3 << 30


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="layouts of 64-bit systems")
@pytest.mark.parametrize("target", FREEBSD)
def test_the_structures_of_kld_are_freebsd_s(target: str) -> None:
    headers = recorded(target)

    assert layout(kld.FileStat, "kld_file_stat") == of("kld_file_stat", headers)
    assert layout(kld.SymLookup, "kld_sym_lookup") == of("kld_sym_lookup", headers)
    assert headers["KLDSYM_LOOKUP"] == [kld.KLDSYM_LOOKUP]
    assert headers["MAXPATHLEN"] == [kld.MAXPATHLEN]
    assert headers["MNT_FORCE"] == [mountpoint._MNT_FORCE]


def test_the_client_s_requests_are_those_of_freebsd() -> None:
    headers = recorded(FREEBSD[0] if sys.maxsize > 1 << 32 else "x86-freebsd.14.0")
    # Some architectures of Linux number as BSD does.
    convert = by_linux if device.KIOCGSIZE >> 30 == 2 else int

    assert [convert(n) for n in headers["KIOCGSIZE"]] == [device.KIOCGSIZE]
    assert [convert(n) for n in headers["KIOCGADDR"]] == [device.KIOCGADDR]


@pytest.mark.parametrize("flavor", [freebsd, netbsd])
def test_the_device_knows_the_commands_of_the_headers(flavor: object) -> None:
    system = "freebsd" if flavor is freebsd else "netbsd"
    for target in TARGETS[system]:
        for name, value in recorded(target).items():
            if "KIOCG" in name:
                assert value[0] >> 8 & 0xFF == ord("l")
                assert getattr(flavor, name) == value[0] & 0xFF


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="compared with a 64-bit system")
def test_our_header_says_of_netbsd_what_netbsd_s_own_says(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    output = tmp_path / "facts.o"
    options = ["-Wall", "-Werror", "-I", str(INCLUDE)]
    subprocess.run(
        [compiler, *options, "-c", HERE / "netbsd.c", "-o", output], check=True
    )
    ours = facts(output.read_bytes())
    headers = recorded("x86_64-netbsd.10.1")
    expected = {
        name: [by_linux(value[0])] if "KIOCG" in name else value
        for name, value in headers.items()
        if name in ours
    }

    assert ours == expected
    assert len(ours) == 15


@pytest.mark.fuse
@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="layouts of 64-bit systems")
@pytest.mark.parametrize("target", FREEBSD)
def test_the_binding_for_freebsd_knows_its_struct_stat(target: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BINDING_ON_FREEBSD],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parent.parent,
        env=environment(),
    )
    binding: dict[str, Facts] = json.loads(done.stdout.replace("timespec", "tim"))
    for tag, ours in binding.items():
        headers = of(tag, recorded(target))
        assert headers
        # The binding writes whole structures; names beyond POSIX differ.
        assert {k: v for k, v in ours.items() if k in headers} == headers


# Imported as it would be there; nothing of libfuse is called.
_BINDING_ON_FREEBSD = """
import json, platform
from tests.bsd.test_headers import layout
platform.system, platform.machine = lambda: "FreeBSD", lambda: "amd64"
import mfusepy
print(json.dumps({
    "stat": layout(mfusepy.c_stat, "stat"),
    "statvfs": layout(mfusepy.c_statvfs, "statvfs"),
}))
"""
