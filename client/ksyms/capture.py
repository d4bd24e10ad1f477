"""Captures a kernel's symbols, types and facts in a folder, to be asked elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ksyms.btf import Btf
from ksyms.capture_files import BTF, FACTS, IMAGE, MODULES, TEXT, VMLINUX
from ksyms.destructor_probe import probe_destructors
from ksyms.destructors import Destructors, guess_destructors
from ksyms.errors import CaptureError, RestrictedError
from ksyms.facts import Facts
from ksyms.kallsyms import KallsymsImage, KallsymsText
from ksyms.running import RunningLinux
from ksyms.vmlinux import read_btf


def write_capture(
    directory: str | Path,
    *,
    ksyms: str | Path | None = None,
    device: str | Path = "/dev/ksyms",
    force: bool = False,
    linux: RunningLinux | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Facts:
    """Capture the kernel that runs into *directory*, whole or not at all.

    Its symbols come from the image *ksyms*, or from *device* if that can be read, or
    from kallsyms. An existing capture is replaced only with *force*, anything else
    never. Which structs have destructors the kernel is asked, one by one, if it lets
    itself be: some seconds, of which *progress* is told (see probe_destructors()).
    Raises CaptureError, RestrictedError where the addresses are hidden from the
    caller, OSError, ImageError, BtfError.
    """
    target = Path(directory).absolute()
    _check_target(target, force)
    linux = linux or RunningLinux()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", dir=target.parent
    ) as scratch:
        work = Path(scratch, "new")
        (work / BTF).mkdir(parents=True)
        _write_symbols(work, ksyms, Path(device), linux)
        facts = _write_types(work, linux, progress)
        (work / FACTS).write_text(facts.to_json())
        _replace(target, work, Path(scratch, "old"))
    return facts


def _replace(target: Path, new: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _check_target(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise CaptureError(str(target), "exists, and is no folder")
    if (target / FACTS).exists():
        if not force:
            raise CaptureError(
                str(target), "holds a capture already (--force replaces it)"
            )
    elif any(target.iterdir()):
        raise CaptureError(str(target), "is a folder with other things in it")


def _write_symbols(
    work: Path, ksyms: str | Path | None, device: Path, linux: RunningLinux
) -> None:
    image = Path(ksyms).read_bytes() if ksyms is not None else _read_device(device)
    if image is not None:
        KallsymsImage(image, str(ksyms or device))  # refuses what is no image
        _write_private(work / IMAGE, image)
    else:
        text = linux.kallsyms()
        if not text:
            raise CaptureError(
                str(linux.root / "proc/kallsyms"),
                "cannot be read, and there is no image of /dev/ksyms: "
                "nowhere to take symbols from (ksyms doctor says what to do)",
            )
        if KallsymsText(text).is_zeroed:
            raise RestrictedError(
                "every address in kallsyms is 0: the kernel hides them from this user "
                "(run as root, or with CAP_SYSLOG)"
            )
        _write_private(work / TEXT, text)
        if (modules := linux.modules()) is not None:
            (work / MODULES).write_bytes(modules)


# Where KASLR is on, these addresses are a secret of the machine.
def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


# A device that is there but does not serve is no reason to fail: kallsyms has the same.
def _read_device(device: Path) -> bytes | None:
    try:
        return device.read_bytes()
    except OSError:
        return None


def _write_types(
    work: Path, linux: RunningLinux, progress: Callable[[int, int], None] | None
) -> Facts:
    facts = linux.facts()
    path = linux.vmlinux_btf()
    if path is None:
        return facts._replace(modules=())
    data = read_btf(path)
    (work / BTF / VMLINUX).write_bytes(data)
    btfs = [Btf(data, name=VMLINUX)]
    names = []
    for name, module in linux.module_btfs():
        try:
            split = read_btf(module)
        except FileNotFoundError:  # unloaded meanwhile
            continue
        (work / BTF / name).write_bytes(split)
        btfs.append(Btf(split, base=btfs[0], name=name))
        names.append(name)
    return facts._replace(
        modules=tuple(names), destructors=_destructors(btfs, linux, progress)
    )


def _destructors(
    btfs: Sequence[Btf],
    linux: RunningLinux,
    progress: Callable[[int, int], None] | None,
) -> Destructors:
    if linux.is_this:
        try:
            return probe_destructors(btfs, progress or _quietly)
        except OSError:  # not for this user, or not this kernel
            pass
    guesses = (guess_destructors(btf).types for btf in btfs)
    return Destructors("heuristic", frozenset().union(*guesses))


def _quietly(done: int, total: int) -> None:
    pass
