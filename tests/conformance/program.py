"""The conformance program: C against the project's own <sys/ksyms.h>."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.server import ROOT

HERE = Path(__file__).resolve().parent
SOURCES = sorted(HERE.glob("*.c"))

CHECKS = re.findall(
    r"^\tCHECK\((\w+)\),$", "".join(s.read_text() for s in SOURCES), re.MULTILINE
)
"""The names of the checks, by their tables in the sources."""

_SKIPPED = 77  # exit status


def compile_c(sources: list[Path], output: Path) -> Path:
    """Compile *sources* with every warning an error; skip without a compiler."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    include = ROOT / "client" / "include"
    options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    paths: list[str | Path] = ["-I", include, "-o", output, *sources]
    subprocess.run([compiler, *options, *paths], check=True)
    return output


class Conform:
    """The compiled program, and the image that the device must show."""

    def __init__(self, program: Path, image: Path) -> None:
        self._program = program
        self.image = image

    def check(self, device: Path, name: str) -> None:
        """Do one check on *device*; fail or skip the test with what it says."""
        result = subprocess.run(
            [self._program, device, self.image, name],
            capture_output=True,
            text=True,
            timeout=100,
        )
        if result.returncode == _SKIPPED:
            pytest.skip(result.stderr.strip())
        assert result.returncode == 0, result.stderr or f"status {result.returncode}"

    def start(self, device: Path, name: str) -> subprocess.Popen[str]:
        """Start what goes on until it is killed; it has said that it is ready."""
        process = subprocess.Popen(
            [self._program, device, self.image, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            _, reason = process.communicate()
            if process.returncode == _SKIPPED:
                pytest.skip(reason.strip())
            pytest.fail(reason)
        return process
