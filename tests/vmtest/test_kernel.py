"""The ELF kernel inside a bzImage, and the initrd that is booted with it."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vagrant.vmtest.initrd import build_initrd, cpio_entry, module_order
from vagrant.vmtest.kernel import Kernel, decompress, unpack_vmlinux
from vagrant.vmtest.parts import VmError

VMLINUX = b"\x7fELF" + bytes(range(256)) * 40


# Boot protocol: the set-up header's fields that matter here, 4 set-up sectors.
def bzimage(payload: bytes, *, magic: bytes = b"HdrS") -> bytes:
    image = bytearray(5 * 512)
    image[0x1F1] = 4
    image[0x202:0x206] = magic
    struct.pack_into("<II", image, 0x248, 0x20, len(payload))
    return bytes(image) + bytes(0x20) + payload + b"what follows the payload"


def zstd(data: bytes) -> bytes:
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True).stdout


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, zstd])
def test_vmlinux_comes_out_of_a_bzimage(compress: object) -> None:
    assert callable(compress)
    size = struct.pack("<I", len(VMLINUX))

    assert unpack_vmlinux(bzimage(compress(VMLINUX) + size)) == VMLINUX


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "no HdrS"),
        (bzimage(b"", magic=b"xxxx"), "no HdrS"),
        (bzimage(b"\x89LZO and so on"), "unknown compression"),
        (bzimage(b"\xfd7zXZ\0 not really"), "decompression"),
        (bzimage(b"\x1f\x8b not really"), "decompression"),
        (bzimage(gzip.compress(b"no kernel")), "not an ELF kernel"),
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes, reason: str) -> None:
    with pytest.raises(VmError, match=reason):
        unpack_vmlinux(image)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.binary(max_size=64), st.integers(0, 0x300))
def test_a_damaged_kernel_gives_a_kernel_or_an_error(noise: bytes, at: int) -> None:
    good = bzimage(gzip.compress(VMLINUX))

    try:
        vmlinux = unpack_vmlinux(good[:at] + noise + good[at + len(noise) :])
    except VmError:
        return

    assert vmlinux.startswith(b"\x7fELF")


def test_modules_are_loaded_after_those_they_need() -> None:
    dependencies = (
        "kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/v/ring.ko\n"
        "kernel/net/9p/9pnet.ko.xz:\n"
        "kernel/v/ring.ko: kernel/v/virtio.ko\n"
        "kernel/v/virtio.ko:\n"
        "kernel/v/virtio-blk.ko: kernel/v/ring.ko kernel/v/virtio.ko\n"
    )

    order = module_order(dependencies, ["virtio_blk", "9pnet_virtio", "built_in"])

    assert order == [
        "kernel/v/virtio.ko",
        "kernel/v/ring.ko",
        "kernel/v/virtio-blk.ko",
        "kernel/net/9p/9pnet.ko.xz",
        "kernel/net/9p/9pnet_virtio.ko.xz",
    ]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    tree = tmp_path / "modules" / "6.1.0-1-amd64"
    tree.mkdir(parents=True)
    (tree / "modules.dep").write_text("9pnet_virtio.ko.xz: 9pnet.ko\n9pnet.ko:\n")
    (tree / "9pnet.ko").write_bytes(b"\x7fELF first")
    (tree / "9pnet_virtio.ko.xz").write_bytes(lzma.compress(b"\x7fELF second"))
    (tmp_path / "busybox").write_bytes(b"a static busybox")
    return Kernel(tmp_path)


def test_the_initrd_is_an_archive_that_another_program_reads(
    kernel: Kernel, tmp_path: Path
) -> None:
    bsdtar = shutil.which("bsdtar")
    if bsdtar is None:
        pytest.skip("bsdtar (libarchive-tools) is not installed")
    out = tmp_path / "out"
    out.mkdir()

    argv = [bsdtar, "-xf", "-", "-C", str(out)]
    subprocess.run(argv, input=build_initrd(kernel), check=True)

    assert (out / "bin" / "sh").readlink() == Path("/busybox")
    assert (out / "load-order").read_text() == "9pnet.ko\n9pnet_virtio.ko"
    assert (out / "9pnet_virtio.ko").read_bytes() == b"\x7fELF second"
    assert (out / "init").stat().st_mode & 0o777 == 0o755


def test_a_kernel_without_9p_is_refused(kernel: Kernel) -> None:
    (kernel.modules / kernel.release / "modules.dep").write_text("")

    with pytest.raises(VmError, match="no 9p modules"):
        build_initrd(kernel)


def test_an_archive_member_is_padded_to_four_bytes() -> None:
    for length in range(8):
        assert len(cpio_entry("x" * length, 0o100644, b"y" * length)) % 4 == 0


def test_decompress_leaves_out_what_follows_the_stream() -> None:
    assert decompress(gzip.compress(b"data") + b"more") == b"data"
