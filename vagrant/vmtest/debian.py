"""Debian packages of any release, fetched and unpacked without installing them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vagrant.vmtest.parts import VmError, require, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror() -> str:
    """Where packages come from: $KSYMSFS_VM_MIRROR, else Debian's own address."""
    return os.environ.get("KSYMSFS_VM_MIRROR", "http://deb.debian.org/debian")


class Apt:
    """An apt of its own for one release: the host's sources are not touched."""

    def __init__(self, release: str, directory: Path) -> None:
        self._directory = directory
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        (directory / "sources.list").write_text(
            f"deb [signed-by={require(KEYRING)}] {mirror()} {release} main\n"
        )
        self._options = [
            f"-o{option}"
            for option in (
                f"Dir::State::lists={directory / 'lists'}",
                f"Dir::State::status={directory / 'status'}",
                f"Dir::Cache={directory}",
                f"Dir::Etc::sourcelist={directory / 'sources.list'}",
                "Dir::Etc::sourceparts=/dev/null",
                "Dir::Etc::preferencesparts=/dev/null",
                "APT::Architecture=amd64",
                "APT::Architectures=amd64",
                "APT::Sandbox::User=root",
                "Acquire::Languages=none",
            )
        ]
        run([require("apt-get"), *self._options, "-q", "update"])

    def dependency(self, package: str, prefix: str) -> str:
        """The package with *prefix* that a meta package depends on."""
        shown = run([require("apt-cache"), *self._options, "depends", package])
        for line in shown.splitlines():
            relation, _, name = line.strip().partition(": ")
            if relation == "Depends" and name.startswith(prefix):
                return name
        raise VmError(package, f"depends on no {prefix}* in {mirror()}")

    def unpack(self, package: str, destination: Path) -> None:
        """Fetches *package* and unpacks its files below *destination*."""
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            fetch = [require("apt-get"), *self._options, "-q", "download", package]
            run(fetch, cwd=Path(scratch))
            for deb in Path(scratch).glob("*.deb"):
                run([require("dpkg-deb"), "-x", deb, destination])
