"""The shell scripts of vagrant/, with stand-ins for what the guests have."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.server import ROOT

VAGRANT = ROOT / "vagrant"
SCRIPTS = sorted([*VAGRANT.glob("*.sh"), *VAGRANT.glob("vmtest/*.sh")])

PROGRAMS = (
    *("apt-get", "apt-cache", "systemctl", "python3"),
    *("pkg", "kldstat", "kldload", "sysrc", "service", "cmp"),
)

# A system of its own: the host's programs, and room for what the scripts write.
JAIL = """\
set -e
cd "$1"
mkdir dev etc usr
for name in bin lib lib64 sbin; do
    if [ -L "/$name" ]; then cp -P "/$name" .; else mkdir "$name"; fi
done
mount --rbind /dev dev
mount --rbind /usr usr
mount -t tmpfs tmpfs usr/local
mkdir -p etc/systemd/system usr/local/bin ksymsfs opt state
mount --bind -o ro "$2" ksymsfs
mount --bind "$3" state
export STATE=/state PATH=/state/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for run in 1 2; do
    echo "run $run" >>"$3/calls"
    chroot . sh "/ksymsfs/vagrant/$4.sh"
done
find usr/local opt etc ! -type d -printf '%p %l\\n' | sort
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_no_fault(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")

    done = subprocess.run(
        ["shellcheck", "-s", "sh", script], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")


def provision(guest: str, directory: Path) -> tuple[list[list[str]], list[str]]:
    """What GUEST.sh called when it ran once, and again; and the files it left."""
    programs = directory / "state" / "bin"
    programs.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("stand_in.sh"), directory / "state")
    for program in PROGRAMS:
        (programs / program).symlink_to("/state/stand_in.sh")
    jail = directory / "jail"
    jail.mkdir()
    argv = ["unshare", "--mount", "sh", "-c", JAIL, "sh"]
    state = str(directory / "state")
    done = subprocess.run(
        [*argv, str(jail), str(ROOT), state, guest], capture_output=True, text=True
    )
    if "unshare failed" in done.stderr:
        pytest.skip("a mount namespace needs root")
    assert done.returncode == 0, done.stderr
    calls = (directory / "state" / "calls").read_text()
    runs = [run.splitlines()[1:] for run in calls.split("run ")[1:]]
    return runs, done.stdout.splitlines()


COMMANDS = [
    f"usr/local/bin/{name} /opt/ksymsfs/bin/{name}"
    for name in ("ksyms", "ksymsfs", "mkksyms")
]


def test_debian_is_provisioned_once_and_restarted_each_time(tmp_path: Path) -> None:
    (first, second), files = provision("debian", tmp_path)

    assert {*COMMANDS, "etc/systemd/system/ksymsfs.service "} <= {*files}
    assert "python3 -m venv /opt/ksymsfs" in first
    assert second == [call for call in first if "-m venv" not in call]
    assert [c for c in first if c.split()[0] in ("systemctl", "ksyms")] == [
        "systemctl daemon-reload",
        "systemctl enable --quiet ksymsfs",
        "systemctl restart ksymsfs",
        "ksyms sym2addr schedule",
    ]
    (installed,) = (call.split() for call in first if call.startswith("apt-get -qy"))
    assert "libfuse2t64" in installed


def test_freebsd_is_provisioned_once_and_restarted_each_time(tmp_path: Path) -> None:
    (first, second), files = provision("freebsd", tmp_path)

    assert {*COMMANDS, "usr/local/etc/rc.d/ksymsfs "} <= {*files}
    installed = {word for call in first if call[:4] == "pkg " for word in call.split()}
    assert "fusefs-libs" in installed
    once = {
        "kldload ksyms",
        "kldload fusefs",
        "python3 -m venv --system-site-packages /opt/ksymsfs",
    }
    assert once <= {*first}
    assert not once & {*second}
    assert "pkg install -q py312-numpy" in first
    assert [call for call in second if call.startswith("service")] == [
        "service ksymsfs status",
        "service ksymsfs stop",
        "service ksymsfs start",
    ]
    assert second[-2:] == [
        "ksyms -k /dev/ksyms sym2addr panic",
        "cmp /dev/ksyms /var/run/ksymsfs/ksyms",
    ]


# As `vagrant ssh GUEST --no-tty -c COMMAND` runs it, with `sudo` and the programs of a
# guest in front of the host's.
VAGRANT_SSH = """\
#!/bin/sh
[ "$1 $3 $4" = "ssh --no-tty -c" ] || exit 2
exec sh -c "$5"
"""

SUDO = """\
#!/bin/sh
exec "$@"
"""

# kldstat(8) -v of FreeBSD 13.2, the addresses apart.
KLDSTAT = """\
#!/bin/sh
echo 'Id Refs Address                Size Name'
printf ' 1   10 0xffffffff80200000   a00000 kernel (%s/boot/kernel)\\n' "$GUEST"
printf '\\tContains modules:\\n\\t\\t Id Name\\n\\t\\t 1 acpi/cpu (eins)\\n'
printf ' 2    1 0xffffffff80f18000     2248 ksyms.ko (%s/boot/ksyms.ko)\\n' "$GUEST"
"""

CAT = """\
#!/bin/sh
case $1 in
/dev/ksyms | /proc/*) echo "$1" ;;
*) exec /bin/cat "$@" ;;
esac
"""


def write_programs(directory: Path, programs: dict[str, str]) -> None:
    directory.mkdir()
    for name, text in programs.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


def capture(guest: str, directory: Path, programs: dict[str, str]) -> Path:
    """Where capture.sh has left the files of GUEST."""
    common = {"vagrant": VAGRANT_SSH, "sudo": SUDO, "cat": CAT}
    write_programs(directory / "bin", common | programs)
    out = directory / "a b" / "out"
    done = subprocess.run(
        [VAGRANT / "capture.sh", guest, out],
        env={
            **os.environ,
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "GUEST": str(directory),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_a_capture_of_freebsd_has_the_image_and_what_it_was_made_from(
    tmp_path: Path,
) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "kernel").write_text("the kernel")
    (tmp_path / "boot" / "ksyms.ko").write_text("a module")

    out = capture(
        "freebsd",
        tmp_path,
        {"kldstat": KLDSTAT, "sha256": '#!/bin/sh\necho "SHA256 ($1) = 0"\n'},
    )

    files = {path.name: path.read_text() for path in out.iterdir()}
    assert files["kernel"] == "the kernel"
    assert files["ksyms.ko"] == "a module"
    assert files["ksyms.elf"] == "/dev/ksyms\n"
    assert files["SHA256"] == "SHA256 (ksyms.elf) = 0\n"
    assert "ksyms.ko" in files["kldstat.txt"]
    assert sorted(files) == [
        *("SHA256", "kernel", "kldstat.txt", "ksyms.elf", "ksyms.ko", "release")
    ]


def test_a_capture_of_debian_has_the_tables_beside_the_capture(tmp_path: Path) -> None:
    ksyms = '#!/bin/sh\n[ "$1" = capture ] && mkdir "$2" && echo it >"$2/image"\n'

    out = capture("debian", tmp_path, {"ksyms": ksyms})

    assert (out / "kallsyms.txt").read_text() == "/proc/kallsyms\n"
    assert (out / "modules.txt").read_text() == "/proc/modules\n"
    assert (out / "capture" / "image").read_text() == "it\n"
    assert sorted(path.name for path in out.iterdir()) == [
        *("capture", "kallsyms.txt", "modules.txt", "release")
    ]


def test_capture_of_no_guest_says_how_it_is_used(tmp_path: Path) -> None:
    done = subprocess.run(
        [VAGRANT / "capture.sh", "netbsd", tmp_path], capture_output=True, text=True
    )

    assert done.returncode == 2
    assert done.stderr == "usage: capture.sh debian|freebsd DIRECTORY\n"


@pytest.mark.parametrize(
    ("required", "last"),
    [
        ("fuse,kernel,bpf", "lint"),
        ("fuse,vm,bpf", "vmtest GUESTS=bookworm trixie bullseye"),
    ],
)
def test_ci_boots_the_guests_where_vm_is_required(
    required: str, last: str, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    write_programs(tmp_path / "bin", {"make": f"#!/bin/sh\necho \"$*\" >>'{calls}'\n"})

    subprocess.run(
        [ROOT / ".ci" / "run"],
        env={
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "KSYMSFS_REQUIRE": required,
        },
        check=True,
    )

    assert calls.read_text().splitlines()[-1] == last


def test_vagrant_finds_no_fault_in_the_vagrantfile(tmp_path: Path) -> None:
    if not shutil.which("vagrant"):
        pytest.skip("vagrant is not installed")

    done = subprocess.run(
        ["vagrant", "validate"],
        cwd=VAGRANT,
        env={
            **os.environ,
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
        },
        capture_output=True,
        text=True,
    )

    if "No usable default provider" in done.stderr:
        pytest.skip("vagrant has no provider: vagrant-libvirt is Debian's")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Vagrantfile validated successfully.\n"
