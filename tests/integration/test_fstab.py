"""mount(8) and fstab(5): type fuse.ksymsfs, through the helper of package fuse3."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.integration.server import install_command

pytestmark = [pytest.mark.fuse, pytest.mark.kernel]

# The helper has no $PATH, and the shell's own default leads to /usr/local/sbin: there
# the command is in a mount namespace that ends with the script, mounts and all.
_SETUP = """
set -e
cd "$1"
mount --bind bin /usr/local/sbin
look() { findmnt -n -o FSTYPE,SOURCE "$1/mnt"; head -c 4 "$2" | od -An -c; }
gone() { for i in $(seq 100); do [ -e "$1" ] || [ -L "$1" ] || return 0; sleep 0.1; done
	return 1; }
"""


def in_namespace(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    install_command(directory / "bin")
    (directory / "mnt").mkdir()
    return subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", _SETUP + script, "sh", str(directory)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )


SERVED = ["fuse.ksymsfs", "ksymsfs", "177", "E", "L", "F"]


def test_mount_serves_the_device_and_umount_ends_it(tmp_path: Path) -> None:
    result = in_namespace(
        tmp_path,
        """
        mount -t fuse.ksymsfs ksymsfs "$1/mnt" -o device="$1/dev"
        look "$1" "$1/dev"
        umount "$1/mnt"
        gone "$1/dev"
        """,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == SERVED


def test_a_line_of_fstab_does_it(tmp_path: Path) -> None:
    line = f"ksymsfs {tmp_path}/mnt fuse.ksymsfs"
    options = f"ro,nofail,_netdev,x-systemd.automount,mode=0444,device={tmp_path}/dev"
    (tmp_path / "fstab").write_text(f"{line} {options} 0 0\n")

    result = in_namespace(
        tmp_path,
        """
        mount -a -T fstab
        look "$1" "$1/dev"
        stat -L -c %a "$1/dev"
        umount "$1/mnt"
        """,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == [*SERVED, "444"]


def test_any_long_option_of_the_server_can_be_given(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parent.parent / "data/demo/kallsyms.txt"

    result = in_namespace(
        tmp_path,
        f"""
        mount -t fuse.ksymsfs none "$1/mnt" -o device=none,kallsyms={data}
        look "$1" "$1/mnt/ksyms"
        """,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == SERVED


@pytest.mark.parametrize(
    ("option", "reason"),
    [("bogus", "bogus"), ("manifest=/nonexistent", "/nonexistent: No such file")],
)
def test_what_does_not_mount_says_why(tmp_path: Path, option: str, reason: str) -> None:
    result = in_namespace(
        tmp_path, f'mount -t fuse.ksymsfs none "$1/mnt" -o device=none,{option}'
    )

    assert result.returncode != 0
    assert reason in result.stderr
