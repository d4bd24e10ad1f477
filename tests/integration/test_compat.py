"""C programs: <sys/ksyms.h>, and the library that gives old ones what they expect."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.server import ROOT, Server, serving

pytestmark = pytest.mark.fuse

HERE = Path(__file__).resolve().parent
INCLUDE = ROOT / "client/include"
DATA = ROOT / "tests/data/demo/kallsyms.txt"

# The numbers of a FreeBSD header, which Linux's _IOR does not make.
BSD_HEADER = """
#define KIOCGSIZE (0x40000000UL | sizeof(size_t) << 16 | 'l' << 8 | 1)
#define KIOCGADDR (0x40000000UL | sizeof(void *) << 16 | 'l' << 8 | 2)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the library, by make compat, and the programs."""
    path = tmp_path_factory.mktemp("compat")
    shutil.copytree(ROOT / "client/compat", path / "client/compat")
    shutil.copy(ROOT / "Makefile", path)
    subprocess.run(
        ["make", "-s", "compat", "CFLAGS=-O2 -Wall -Wextra -Werror"],
        cwd=path,
        check=True,
    )
    (path / "bsd/sys").mkdir(parents=True)
    (path / "bsd/sys/ksyms.h").write_text(BSD_HEADER)
    for name, include in {"linux": INCLUDE, "bsd": path / "bsd"}.items():
        for program, libraries in {"symtab_init": ["-lelf"], "mappings": []}.items():
            subprocess.run(
                [
                    *("cc", "-O2", "-Wall", "-Werror", "-I", include),
                    *(HERE / f"{program}.c", "-o", path / f"{program}-{name}"),
                    *libraries,
                ],
                check=True,
            )
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    with serving(directory, ["--kallsyms", str(DATA)]) as running:
        yield running


def run(
    server: Server, *command: str | Path, preload: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program that finds the device at /dev/ksyms."""
    # Its own /dev is all there is in it, in a mount namespace that ends with it.
    script = 'mount -t tmpfs none /dev && ln -s "$0" /dev/ksyms && exec "$@"'
    library = [f"LD_PRELOAD={preload}/build/libksyms_compat.so"] if preload else []
    return subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", script, server.device),
            *("env", *library, *command),
        ],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("numbers", ["linux", "bsd"])
def test_a_program_of_2009_starts_unchanged(
    built: Path, server: Server, numbers: str
) -> None:
    nm = subprocess.run(["nm", "-S", server.device], capture_output=True, text=True)
    rows = [row for row in map(str.split, nm.stdout.splitlines()) if len(row) == 4]
    wanted = [
        f"{name} {int(address, 16):#x} {int(size, 16)}"
        for address, size, _, name in rows
        if name in ("vfs_read", "nft_register_chain_type")
    ]

    result = run(
        *(
            server,
            built / f"symtab_init-{numbers}",
            "vfs_read",
            "nft_register_chain_type",
        ),
        preload=built,
    )

    assert (result.returncode, result.stderr) == (0, "")
    *found, count = result.stdout.splitlines()
    assert sorted(found) == sorted(wanted)
    assert len(found) == 2
    assert int(count) == len(rows)


@pytest.mark.parametrize("numbers", ["linux", "bsd"])
def test_the_snapshot_is_in_memory_from_open_to_close(
    built: Path, server: Server, numbers: str
) -> None:
    result = run(server, built / f"mappings-{numbers}", preload=built)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "open 1",
        "asked 1",
        "vforked 1",  # a child that borrows the memory takes nothing out of it
        "closed 0",
        "dup-asked 1",
        "exec 0",
        "exec-asked 1",
    ]


def test_other_files_are_opened_read_and_closed_as_ever(
    built: Path, tmp_path: Path
) -> None:
    environment = {"LD_PRELOAD": f"{built}/build/libksyms_compat.so", **os.environ}
    script = 'umask 027; echo text > "$1"; cat "$1"; stat -c %a "$1"; tty'

    result = subprocess.run(
        ["sh", "-c", script, "sh", tmp_path / "file"],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
    )

    assert result.stdout.splitlines() == ["text", "640", "not a tty"]
    assert result.stderr == ""


def test_without_the_library_kiocgaddr_wants_a_mapping(
    built: Path, server: Server
) -> None:
    result = run(server, built / "mappings-linux")

    assert result.stderr == "mappings-linux: KIOCGADDR: No such device or address\n"
    assert result.stdout == "open 0\n"
