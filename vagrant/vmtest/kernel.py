"""A Debian kernel ready to boot: vmlinux, its modules, and a static busybox."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from vagrant.vmtest.debian import Apt, mirror
from vagrant.vmtest.parts import VmError, cached, digest, require, run


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked linux-image package.

    The cloud flavor of Debian's kernel is no use here: it has no 9p.
    """

    directory: Path

    @property
    def vmlinux(self) -> Path:
        """The ELF kernel, booted directly: no unpacking under emulation, no KASLR."""
        return self.directory / "vmlinux"

    @property
    def vmlinuz(self) -> Path:
        """The compressed kernel: boots seconds later, at a random address."""
        return self.directory / "vmlinuz"

    @property
    def busybox(self) -> Path:
        """Debian's static busybox."""
        return self.directory / "busybox"

    @property
    def modules(self) -> Path:
        """What the guest sees as /lib/modules."""
        return self.directory / "modules"

    @property
    def release(self) -> str:
        """As `uname -r` prints it."""
        return next(self.modules.iterdir()).name


def build_kernel(release: str, cache: Path) -> Kernel:
    """The kernel of Debian *release*, from the cache or Debian's archive."""

    def build(directory: Path) -> None:
        apt = Apt(release, directory / "apt")
        image = apt.dependency("linux-image-amd64", "linux-image-")
        tree = directory / "tree"
        apt.unpack(image, tree)
        apt.unpack("busybox-static", tree)
        # Merged /usr came between the releases: both places are looked at.
        (modules,) = [
            found
            for place in ("lib/modules", "usr/lib/modules")
            for found in tree.glob(place)
        ]
        run([require("depmod"), "-b", modules.parents[1], _only_child(modules)])
        (busybox,) = [
            found
            for place in ("bin/busybox", "usr/bin/busybox")
            for found in tree.glob(place)
        ]
        (vmlinuz,) = tree.glob("boot/vmlinuz-*")
        modules.rename(directory / "modules")
        busybox.rename(directory / "busybox")
        vmlinuz.rename(directory / "vmlinuz")
        compressed = (directory / "vmlinuz").read_bytes()
        (directory / "vmlinux").write_bytes(unpack_vmlinux(compressed))
        shutil.rmtree(tree)
        shutil.rmtree(directory / "apt")

    key = digest(Path(__file__).read_text(), mirror(), release)
    return Kernel(cached(cache, f"kernel-{release}", key, build, file=False))


def _only_child(directory: Path) -> str:
    (child,) = directory.iterdir()
    return child.name


def unpack_vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel inside an x86 bzImage (boot protocol 2.08 or later).

    The set-up header of Documentation/arch/x86/boot.rst: `setup_sects` at 0x1f1,
    "HdrS" at 0x202, `payload_offset` and `payload_length` at 0x248. After the
    compressed stream come four bytes, the unpacked size.

    :raises VmError: not such an image, or a compression that Debian does not use
    """
    if len(bzimage) < 0x250 or bzimage[0x202:0x206] != b"HdrS":
        raise VmError("vmlinuz", "not a bzImage: it has no HdrS set-up header")
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = ((bzimage[0x1F1] or 4) + 1) * 512 + offset
    vmlinux = decompress(bzimage[start : start + length])
    if not vmlinux.startswith(b"\x7fELF"):
        raise VmError("vmlinuz", "its payload is not an ELF kernel")
    return vmlinux


def decompress(data: bytes) -> bytes:
    """*data* uncompressed; what follows the compressed stream is left out.

    :raises VmError: an unknown compression, or damaged data
    """
    try:
        if data.startswith(b"\xfd7zXZ\0"):
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(data)
    except (lzma.LZMAError, zlib.error) as error:
        raise VmError("decompression", str(error)) from error
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        # zstd complains about what follows the stream, after it has written it out.
        argv = [require("zstd"), "-dcq"]
        done = subprocess.run(argv, input=data, capture_output=True, check=False)
        if done.stdout:
            return done.stdout
        raise VmError("decompression", done.stderr.decode(errors="replace").strip())
    raise VmError("decompression", f"unknown compression, magic {data[:4].hex()}")
