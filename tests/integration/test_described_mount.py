"""Described kernels on a real mount: the examples, and edits while it is mounted."""

from __future__ import annotations

import errno
import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksymsfs.mkksyms import main
from ksymsfs.mountpoint import unmount
from tests.elf_writer import write_recorded
from tests.integration.server import (
    BINDINGS,
    Binding,
    Server,
    environment,
    serving,
)

pytestmark = pytest.mark.fuse

EXAMPLES = Path(__file__).parent.parent.parent / "ksymsfs/examples"


@pytest.mark.parametrize("example", sorted(EXAMPLES.iterdir()), ids=lambda p: p.stem)
def test_an_example_is_served_as_mkksyms_writes_it(
    example: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    main(["--manifest", str(example), "-o", str(image)])

    with serving(tmp_path, ["--manifest", str(example)]) as server:
        assert server.device.read_bytes() == image.read_bytes()
        listing = (server.mountpoint / "modules").read_text()

    assert listing.splitlines()[0].endswith(" kernel")
    assert len(listing.splitlines()) == 3


@pytest.fixture(params=BINDINGS)
def manifest(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, Server]]:
    binding: Binding = request.param
    path = tmp_path / "kernel.toml"
    path.write_text((EXAMPLES / "linux.toml").read_text())
    with serving(tmp_path, ["--manifest", str(path)], binding=binding) as server:
        yield path, server


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def failure(server: Server) -> int | None:
    with pytest.raises(OSError) as caught:
        server.device.read_bytes()
    return caught.value.errno


def test_the_next_open_sees_an_edit_and_an_open_one_does_not(
    manifest: tuple[Path, Server],
) -> None:
    path, server = manifest
    with server.device.open("rb") as device:
        before = device.read()
        edit(path, "t dummy_xmit", "t dummy_sent")
        device.seek(0)
        assert device.read() == before

    after = server.device.read_bytes()

    assert b"dummy_xmit" in before
    assert b"dummy_xmit" not in after
    assert b"dummy_sent" in after


def test_an_older_generation_is_opened_through_proc_but_not_by_its_name(
    manifest: tuple[Path, Server],
) -> None:
    path, server = manifest
    older = server.device.resolve()
    holder = subprocess.Popen(
        ["sh", "-c", 'exec <"$0"; echo; exec sleep 60', server.device],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    with holder, holder.stdout:
        try:
            assert holder.stdout.readline() == b"\n"
            edit(path, "t dummy_xmit", "t dummy_sent")
            assert b"dummy_sent" in server.device.read_bytes()
            for _ in range(3):
                with pytest.raises(OSError) as caught:
                    older.read_bytes()
                assert caught.value.errno == errno.ESTALE
            assert b"dummy_xmit" in Path(f"/proc/{holder.pid}/fd/0").read_bytes()
        finally:
            holder.kill()


def test_a_module_that_stays_loading_is_enxio_until_it_is_live(
    manifest: tuple[Path, Server],
) -> None:
    path, server = manifest
    edit(path, 'state = "Live"', 'state = "Loading"')
    loading = failure(server)
    edit(path, 'state = "Loading"', 'state = "Live"')

    live = server.device.read_bytes()

    assert loading == errno.ENXIO
    assert b"dummy_xmit" in live
    assert "module dummy is Loading" in server.says()


def test_a_mistake_is_enxio_and_a_message_with_its_line(
    manifest: tuple[Path, Server],
) -> None:
    path, server = manifest
    with server.device.open("rb") as device:
        before = device.read()
        edit(path, "ffffffffc0b00040 t dummy_xmit", "ffffffffc0b00040 dummy_xmit")
        line = path.read_text().splitlines().index("ffffffffc0b00040 dummy_xmit") + 1
        mistaken = failure(server)
        device.seek(0)
        assert device.read() == before
    edit(path, "ffffffffc0b00040 dummy_xmit", "ffffffffc0b00040 t dummy_xmit")

    after = server.device.read_bytes()

    assert mistaken == errno.ENXIO
    assert f"{path}: line {line}: not an address, a letter and a name" in server.says()
    assert after == before


def test_a_manifest_that_is_gone_is_enxio(manifest: tuple[Path, Server]) -> None:
    path, server = manifest
    path.unlink()

    assert failure(server) == errno.ENXIO
    assert f"{path}: No such file or directory" in server.says()


def test_a_saved_image_is_served_unchanged(tmp_path: Path, data: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(
        gzip.decompress((data / "freebsd-13.2/image-2.elf.gz").read_bytes())
    )

    with serving(tmp_path, ["--image", str(image)]) as server:
        assert server.device.read_bytes() == image.read_bytes()
        listing = (server.mountpoint / "modules").read_text()

    assert [line.split()[-1] for line in listing.splitlines()] == ["kernel", "#2", "#3"]


def test_freebsd_s_files_are_served_as_freebsd_served_them(
    tmp_path: Path, data: Path
) -> None:
    for name in ("kernel", "ksyms.ko", "fusefs.ko"):
        write_recorded(data / "freebsd-13.2" / name, tmp_path / name)
    options = [
        *("--kernel", str(tmp_path / "kernel")),
        *("-m", f"{tmp_path / 'ksyms.ko'}@0xffffffff80f18000+0x2248"),
        *("-m", f"{tmp_path / 'fusefs.ko'}@0xffffffff80f1b000+0x11cd8"),
    ]
    recorded = gzip.decompress((data / "freebsd-13.2/image-2.elf.gz").read_bytes())

    with serving(tmp_path, options) as server:
        served = server.device.read_bytes()
        listing = (server.mountpoint / "modules").read_text().splitlines()
        # Another file in a module's place is not the one that was loaded.
        write_recorded(data / "freebsd-13.2/ksyms.ko", tmp_path / "fusefs.ko")
        replaced = failure(server)

    assert served == recorded
    assert listing == [
        "1 0xffffffff80200000 0xa00000 30851 kernel",
        "2 0xffffffff80f18000 0x2248 77 ksyms.ko",
        "3 0xffffffff80f1b000 0x11cd8 626 fusefs.ko",
    ]
    assert replaced == errno.ENXIO
    assert "fusefs.ko: takes 0x2248 bytes when loaded, not 0x11cd8" in server.says()


def test_relative_names_hold_for_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "kernel.toml").write_text((EXAMPLES / "linux.toml").read_text())
    arguments = ["--manifest", "kernel.toml", "--device", "none", "mnt"]
    (tmp_path / "mnt").mkdir()
    subprocess.run(
        [sys.executable, "-m", "ksymsfs", *arguments],
        cwd=tmp_path,
        env=environment(),
        check=True,
        timeout=30,
    )
    try:
        edit(tmp_path / "kernel.toml", "t dummy_xmit", "t dummy_sent")

        image = (tmp_path / "mnt/ksyms").read_bytes()
    finally:
        unmount(str(tmp_path / "mnt"))

    assert b"dummy_sent" in image
