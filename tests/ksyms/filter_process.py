"""A command of ksyms as the filter it is: fed line by line, read as it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tests.integration.server import ROOT


@contextmanager
def filtering(image: str, command: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Standard input and output, unbuffered, of ``ksyms -k image command``.

    It must end well when its input ends.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "ksyms", "-k", image, command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdin, process.stdout
        process.stdin.close()
        assert process.wait(10) == 0
