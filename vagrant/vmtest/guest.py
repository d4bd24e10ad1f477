"""The guests: which userland runs on which kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guest:
    """A Debian userland and the Debian release whose kernel it runs on."""

    userland: str
    kernel: str
    # Debian's Python in that userland: the version that wheels are fetched for.
    python: str
    packages: tuple[str, ...]


# bpftool carries libbpf, the answer that `ksyms bpf` is compared with; gcc and libelf
# are for the readers in C. fusepy comes from Debian, where it is called `fusepy`.
_PACKAGES = (
    "binutils",
    "bpftool",
    "fuse3",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "libelf-dev",
    "procps",
    "python3",
    "python3-fusepy",
    "xz-utils",
)

_BOOKWORM = (*_PACKAGES, "libfuse2", "libfuse3-3")
_TRIXIE = (*_PACKAGES, "libfuse2t64", "libfuse3-4")

GUESTS = {
    "bookworm": Guest("bookworm", "bookworm", "3.11", _BOOKWORM),
    "trixie": Guest("trixie", "trixie", "3.13", _TRIXIE),
    # Bullseye's Python is 3.9, older than the project's: its kernel, a newer userland.
    "bullseye": Guest("bookworm", "bullseye", "3.11", _BOOKWORM),
}
