"""What is in a capture, the folder that `ksyms capture` makes.

DIR/facts.json      release, machine, destructors ...
DIR/ksyms           the image of /dev/ksyms, or else
DIR/kallsyms        the text of /proc/kallsyms, and
DIR/modules         that of /proc/modules
DIR/btf/vmlinux     the kernel's BTF
DIR/btf/MODULE      the split BTF of each module
"""

from __future__ import annotations

from pathlib import Path

from ksyms.errors import CaptureError
from ksyms.facts import Facts

FACTS, IMAGE, TEXT, MODULES, BTF = "facts.json", "ksyms", "kallsyms", "modules", "btf"
VMLINUX = "vmlinux"


def read_facts(directory: Path) -> Facts:
    """The facts of the capture in *directory*. Raises CaptureError, OSError."""
    path = directory / FACTS
    try:
        return Facts.from_json(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CaptureError(
            str(directory), f"not a capture: there is no {FACTS} (see ksyms capture)"
        ) from error
