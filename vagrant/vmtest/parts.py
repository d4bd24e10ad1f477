"""What the host must have, where built parts are kept, and how commands are run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Program (or file) -> the Debian package that has it.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "genext2fs": "genext2fs",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "depmod": "kmod",
    "zstd": "zstd",
    "setpriv": "util-linux",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}


class VmError(Exception):
    """A guest cannot be built or booted: *what*, *reason*, and what to do."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


class MissingPartError(VmError, FileNotFoundError):
    """A program or file that the host lacks; the message names its package."""

    def __init__(self, part: str) -> None:
        package = PACKAGES.get(part, part)
        super().__init__(part, f"not found; install it: apt-get install {package}")


def require(part: str) -> str:
    """The path of *part*, a key of PACKAGES.

    :raises MissingPartError: it is not installed
    """
    if part.startswith("/"):
        found = part if Path(part).exists() else None
    else:
        # Administrators' programs are not on every user's PATH.
        found = shutil.which(part, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise MissingPartError(part)
    return found


def run(argv: Sequence[str | Path], *, cwd: Path | None = None) -> str:
    """Runs a command and gives its standard output.

    :raises VmError: it failed; the message has the end of what it said
    """
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise VmError(
            Path(argv[0]).name,
            f"exit status {done.returncode}: " + "\n  ".join(["", *said[-8:]]).strip(),
        )
    return done.stdout


def cache_directory() -> Path:
    """$KSYMSFS_VM_CACHE, else ksymsfs/vm in the user's cache directory."""
    if chosen := os.environ.get("KSYMSFS_VM_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "ksymsfs", "vm")


def digest(*texts: str) -> str:
    """A short name for a recipe: what is built anew when any of *texts* changes."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def cached(
    cache: Path, kind: str, key: str, build: Callable[[Path], None], *, file: bool
) -> Path:
    """The part `kind-key` of *cache*, built by *build* when it is not there.

    *build* fills the path it is given (a new directory, or with *file* a name in one);
    only a finished part gets its name. Older parts of the same kind are removed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f"{kind}-{key}"
    with _locked(cache / f"{kind}.lock"):
        if part.exists():
            return part
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}.") as scratch:
            # A scratch directory is mode 0700; a part is for whoever shares the cache.
            new = Path(scratch, "part")
            if not file:
                new.mkdir()
            build(new)
            new.rename(part)
        for old in cache.glob(f"{kind}-*"):
            if old != part:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return part


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
