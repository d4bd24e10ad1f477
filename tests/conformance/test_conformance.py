"""ksyms(4)'s rules, checked from outside Python, on both libfuses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksymsfs import mkksyms
from tests.conformance.program import CHECKS, SOURCES, Conform, compile_c
from tests.integration.server import BINDINGS, Server, serving

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("table") / "kallsyms"
    lines = (f"{0xFFFFFFFF81000000 + 48 * i:x} T function_{i}" for i in range(30_000))
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="module")
def conform(table: Path) -> Conform:
    program = compile_c(SOURCES, table.with_name("conform"))
    image = table.with_name("image")
    assert mkksyms.main(["--kallsyms", str(table), "-o", str(image)]) == 0
    return Conform(program, image)


@pytest.fixture(scope="module", params=BINDINGS)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    table: Path,
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("conformance")
    options = ["--kallsyms", str(table)]
    with serving(directory, options, binding=request.param) as running:
        yield running
    assert "Traceback" not in running.says()


@pytest.mark.parametrize("check", CHECKS)
def test_conformance(server: Server, conform: Conform, check: str) -> None:
    conform.check(server.device, check)


@pytest.mark.parametrize(
    "command",
    [
        "cp DEVICE COPY",
        "cp --sparse=always DEVICE COPY",
        "install -m 600 DEVICE COPY",
        "cat DEVICE > COPY",
        "cat < DEVICE > COPY",
        "dd if=DEVICE of=COPY bs=333",
        "dd if=DEVICE of=COPY bs=64K iflag=direct",
        "tar -chf - DEVICE | tar -xOf - > COPY",
    ],
)
def test_the_usual_tools_copy_it(
    server: Server, conform: Conform, tmp_path: Path, command: str
) -> None:
    copy = tmp_path / "copy"
    command = command.replace("DEVICE", str(server.device)).replace("COPY", str(copy))

    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert copy.read_bytes() == conform.image.read_bytes()
