"""A Debian userland as a small ext2 image: the suite's Python and what it imports."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from pathlib import Path

from vagrant.vmtest.debian import KEYRING, mirror
from vagrant.vmtest.guest import Guest
from vagrant.vmtest.parts import VmError, cached, digest, require, run

# What the guest runs: not the linters, nor fusepy, which is a source archive on PyPI.
_TEST_PACKAGES = ("hypothesis", "mfusepy", "pytest", "pytest-timeout")

_WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")


def requirements(pyproject: str) -> list[str]:
    """The requirements that become wheels in the guest, from pyproject.toml's text."""
    project = tomllib.loads(pyproject)["project"]
    needed = [
        requirement
        for requirement in project["dependencies"]
        if not requirement.startswith("fusepy")
    ]
    return needed + [
        requirement
        for requirement in project["optional-dependencies"]["test"]
        if requirement.partition(">=")[0] in _TEST_PACKAGES
    ]


def build_userland(guest: Guest, checkout: Path, cache: Path) -> Path:
    """The root file system of *guest*, from the cache or built by mmdebstrap."""
    needed = requirements((checkout / "pyproject.toml").read_text())
    # On the path of Debian's Python, for what does not come from Debian.
    site = f"/usr/local/lib/python{guest.python}"

    def build(image: Path) -> None:
        argv = [require("mmdebstrap"), "--variant=minbase", "--format=ext2"]
        require("genext2fs")
        argv += [f"--keyring={require(KEYRING)}"]
        argv += [f"--include={','.join(guest.packages)}"]
        # The suite reads no manuals.
        argv += [
            f"--dpkgopt=path-exclude=/usr/share/{name}/*"
            for name in ("man", "doc", "locale", "info")
        ]
        with tempfile.TemporaryDirectory() as scratch:
            _install_wheels(guest, needed, Path(scratch, "dist-packages"))
            argv += [f"--customize-hook=copy-in {scratch}/dist-packages {site}"]
            # Compiled once here instead of at every start, in memory, under emulation.
            argv += [
                f'--customize-hook=chroot "$1" python3 -m compileall -q -j0 {site}'
            ]
            # Where the kernel's modules are mounted: no package brings the directory.
            argv += ['--customize-hook=mkdir -p "$1/lib/modules"']
            # systemd would make it; without it fusermount wants to write a lock file.
            argv += ['--customize-hook=ln -sf ../proc/self/mounts "$1/etc/mtab"']
            argv += [guest.userland, str(image), mirror()]
            run(argv)

    key = digest(Path(__file__).read_text(), mirror(), *guest.packages, *needed)
    return cached(cache, f"userland-{guest.userland}", key, build, file=True)


def _install_wheels(guest: Guest, needed: list[str], target: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    try:
        run([*pip, "--version"])
    except VmError as error:
        raise VmError("pip", f"{sys.executable} has no pip: {error.reason}") from error
    platforms = [f"--platform={name}_x86_64" for name in _WHEEL_PLATFORMS]
    options = ["--only-binary=:all:", "--implementation=cp", "--no-compile"]
    options += [f"--python-version={guest.python}", f"--target={target}"]
    run([*pip, "install", "-q", *options, *platforms, *needed])
