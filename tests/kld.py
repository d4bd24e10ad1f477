"""FreeBSD's kernel linker as a C library, for a machine that was recorded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("ksymsfs") / "kld_stub.c"


def build_kld(folder: Path, boot: str = "/boot/kernel") -> Path:
    """Compile kld_stub.c, whose kernel and modules were loaded from *boot*."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "kld.so"
    flags = ["-Wall", "-Werror", "-shared", "-fPIC", f'-DBOOT="{boot}"']
    subprocess.run([compiler, *flags, "-o", library, _SOURCE], check=True)
    return library
