"""The initrd: a static busybox, the modules that find the root, and a short init."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vagrant.vmtest.kernel import Kernel, decompress
from vagrant.vmtest.parts import VmError

# What the root and the shares need. Not every kernel has each of them as a module.
_WANTED = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "ext4")

# The crypto that ext4 asks for by name is a soft dependency: depmod lists no file.
_SOFT = ("crc32c_generic",)

# No file of the initrd may be named like a share: busybox would take it for the device.
_INIT = """\
#!/bin/sh
/busybox mount -t devtmpfs dev /dev
/busybox mount -t proc proc /proc
for module in $(/busybox cat /load-order); do
    /busybox insmod "/$module" || echo "initrd: cannot load $module"
done
/busybox mount -o ro -t ext4 /dev/vda /root || echo "initrd: no root"
share() {
    /busybox mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$3" \\
        "$1" "/root$2" || echo "initrd: no share $1"
}
/busybox mount -t tmpfs tmpfs /root/mnt
/busybox mkdir /root/mnt/checkout /root/mnt/result
share checkout /mnt/checkout ro,cache=loose
share modules /lib/modules ro,cache=loose
share result /mnt/result rw,cache=none
/busybox mount --move /dev /root/dev
/busybox mount --move /proc /root/proc
exec /busybox switch_root /root /bin/sh /mnt/checkout/vagrant/vmtest/guest.sh
"""


def module_order(dependencies: str, wanted: Iterable[str]) -> list[str]:
    """The files to load for the *wanted* modules, each after those it needs.

    *dependencies* is depmod's `modules.dep`: `file: needed needed`, the nearest first.
    A name without a file is built into the kernel, and left out.
    """
    needs = {}
    files = {}
    for line in dependencies.splitlines():
        file, _, rest = line.partition(":")
        needs[file] = rest.split()
        files[Path(file).name.partition(".")[0].replace("-", "_")] = file
    order: list[str] = []
    for name in wanted:
        if file := files.get(name, ""):
            for each in (*reversed(needs[file]), file):
                if each not in order:
                    order.append(each)
    return order


def build_initrd(kernel: Kernel) -> bytes:
    """The initrd of *kernel*: not compressed, for it is unpacked once.

    :raises VmError: the kernel lacks the modules for the shares
    """
    tree = kernel.modules / kernel.release
    order = module_order((tree / "modules.dep").read_text(), (*_SOFT, *_WANTED))
    if not any("9pnet_virtio" in file for file in order):
        raise VmError(kernel.release, "has no 9p modules: not Debian's generic kernel")
    names = [Path(file).name.partition(".ko")[0] + ".ko" for file in order]
    entries = [cpio_entry(name, 0o040755) for name in ("root", "dev", "proc", "bin")]
    entries += [
        cpio_entry("busybox", 0o100755, kernel.busybox.read_bytes()),
        cpio_entry("bin/sh", 0o120777, b"/busybox"),
        cpio_entry("init", 0o100755, _INIT.encode()),
        cpio_entry("load-order", 0o100644, "\n".join(names).encode()),
    ]
    for name, file in zip(names, order, strict=True):
        data = (tree / file).read_bytes()
        if not data.startswith(b"\x7fELF"):
            data = decompress(data)
        entries.append(cpio_entry(name, 0o100644, data))
    entries.append(cpio_entry("TRAILER!!!", 0))
    return b"".join(entries)


def cpio_entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One member of a cpio archive, format newc: 13 fields of 8 hexadecimal digits.

    Header with name, and data, are each padded to 4 bytes (cpio(5), "New ASCII").
    """
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    header += name.encode() + b"\0"
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)
