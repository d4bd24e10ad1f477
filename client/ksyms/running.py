"""Where the Linux that runs keeps its symbols, types and configuration."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

from ksyms.facts import Facts

_KALLSYMS_ALL = re.compile(
    rb"^(?:(CONFIG_KALLSYMS_ALL=y)|# CONFIG_KALLSYMS_ALL is not set)$", re.MULTILINE
)

# btf__load_vmlinux_btf() tries these in turn, %s being the release.
_VMLINUX = (
    "sys/kernel/btf/vmlinux",
    "boot/vmlinux-%s",
    "lib/modules/%s/vmlinux-%s",
    "lib/modules/%s/build/vmlinux",
    "usr/lib/modules/%s/kernel/vmlinux",
    "usr/lib/debug/boot/vmlinux-%s",
    "usr/lib/debug/boot/vmlinux-%s.debug",
    "usr/lib/debug/lib/modules/%s/vmlinux",
)


class RunningLinux:
    """The files of a running kernel below *root*, each read when it is asked for."""

    def __init__(self, root: str | Path = "/") -> None:
        self.root = Path(root)

    @property
    def is_this(self) -> bool:
        """Whether it is the system that this process runs on."""
        return self.root == Path("/")

    def kallsyms(self) -> bytes | None:
        """/proc/kallsyms, None where the kernel has none."""
        return _read(self.root / "proc/kallsyms")

    def modules(self) -> bytes | None:
        """/proc/modules, None where the kernel has no modules at all."""
        return _read(self.root / "proc/modules")

    def vmlinux_btf(self) -> Path | None:
        """The file that libbpf would take the kernel's own BTF from."""
        for pattern in _VMLINUX:
            path = self.root / pattern.replace("%s", os.uname().release)
            if os.access(path, os.R_OK):
                return path
        return None

    def module_btfs(self) -> tuple[tuple[str, Path], ...]:
        """Names and files of the modules' BTF, in the order that they were loaded in.

        BTF ids ascend with the time of loading, and /proc/modules has the newest
        first. Raises OSError.
        """
        try:
            found = {
                path.name: path for path in (self.root / "sys/kernel/btf").iterdir()
            }
        except FileNotFoundError:
            return ()
        found.pop("vmlinux", None)
        lines = (self.modules() or b"").splitlines()
        newest_first = [os.fsdecode(line.partition(b" ")[0]) for line in lines]
        age = {name: -position for position, name in enumerate(newest_first)}
        return tuple(sorted(found.items(), key=lambda item: age.get(item[0], 1)))

    def facts(self) -> Facts:
        """All but the destructors, which cost a search of the BTF or a probe."""
        system = os.uname()
        return Facts(
            release=system.release,
            machine=system.machine,
            kallsyms_all=self.kallsyms_all(),
            page_size=os.sysconf("SC_PAGESIZE"),
            modules=tuple(name for name, _ in self.module_btfs()),
        )

    def kallsyms_all(self) -> bool | None:
        """Whether kallsyms has variables too; None where no configuration tells."""
        config = _read(self.root / f"boot/config-{os.uname().release}")
        packed = _read(self.root / "proc/config.gz")
        if packed is not None:
            config = gzip.decompress(packed)
        found = _KALLSYMS_ALL.search(config) if config else None
        return bool(found[1]) if found else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, PermissionError):
        return None
