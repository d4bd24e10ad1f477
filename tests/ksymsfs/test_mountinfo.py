"""What is mounted where, as Linux and FreeBSD tell it."""

from __future__ import annotations

from pathlib import Path

from ksymsfs.mountinfo import Mount, bsd_mounts, mounts

LINUX = b"""\
22 1 252:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
97 22 0:52 / /tmp/a\\040b rw,nosuid,nodev shared:40 master:2 - fuse.ksymsfs ksymsfs rw
"""

FREEBSD = b"""\
/dev/ufs/rootfs\t\t/\t\t\tufs\trw\t\t1 1
devfs\t\t\t/dev\t\t\tdevfs\trw\t\t0 0
ksymsfs\t\t\t/tmp/a\\040b\t\tfusefs.ksymsfs\trw,nosuid\t0 0
"""


def test_linux_tells_it_in_mountinfo(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(LINUX)

    assert mounts(tmp_path / "mountinfo") == [
        Mount((252, 0), "/", "ext4", "/dev/vda"),
        Mount((0, 52), "/tmp/a b", "fuse.ksymsfs", "ksymsfs"),
    ]


def test_freebsd_tells_it_by_mount_p() -> None:
    assert bsd_mounts(FREEBSD) == [
        Mount((0, 0), "/", "ufs", "/dev/ufs/rootfs"),
        Mount((0, 0), "/dev", "devfs", "devfs"),
        Mount((0, 0), "/tmp/a b", "fusefs.ksymsfs", "ksymsfs"),
    ]
