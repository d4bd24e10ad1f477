"""Checks many objects on many kernels, whatever is wrong with one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

from ksyms.bpf.object import BpfObject
from ksyms.errors import KsymsError
from ksyms.kernel import Kernel
from ksyms.resolution import Resolution, resolve

P = ParamSpec("P")
T = TypeVar("T")


class Check(NamedTuple):
    """One object on one kernel: its resolution, or why there is none."""

    object: str
    kernel: str
    resolution: Resolution | None
    unreadable: str | None = None

    @property
    def verdict(self) -> str:
        """ "ok", "-EINVAL" ..., or "unreadable"."""
        return self.resolution.result if self.resolution else "unreadable"


class Report(NamedTuple):
    """All checks: every object on the first kernel, then on the next."""

    objects: tuple[str, ...]
    kernels: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def exit_status(self) -> int:
        """0: all resolve; 1: some do not; 2: some input is unreadable."""
        if any(check.resolution is None for check in self.checks):
            return 2
        return int(any(check.verdict != "ok" for check in self.checks))

    def check(self, object: str, kernel: str) -> Check:
        """The check of *object* on *kernel*."""
        width = len(self.objects)
        row, column = self.objects.index(object), self.kernels.index(kernel)
        return self.checks[column * width + row]


def check_all(
    paths: Sequence[str], kernels: Iterable[tuple[str, Callable[[], Kernel]]]
) -> Report:
    """Check the objects in the files *paths* on each of *kernels*.

    Those are names, and what loads them; one is in memory at a time. What cannot be
    read becomes a check without a resolution.
    """
    objects = {path: _attempt(BpfObject.load, path) for path in paths}
    names, checks = [], []
    for name, load in kernels:
        names.append(name)
        kernel = _attempt(load)
        checks += [_check(path, objects[path], name, kernel) for path in paths]
    return Report(tuple(paths), tuple(names), tuple(checks))


def _check(
    path: str, obj: BpfObject | _Unreadable, name: str, kernel: Kernel | _Unreadable
) -> Check:
    for part in (obj, kernel):
        if isinstance(part, _Unreadable):
            return Check(path, name, None, part.reason)
    assert isinstance(obj, BpfObject)
    assert isinstance(kernel, Kernel)
    resolution = _attempt(resolve, obj, kernel)
    if isinstance(resolution, _Unreadable):
        return Check(path, name, None, resolution.reason)
    return Check(path, name, resolution)


class _Unreadable(NamedTuple):
    reason: str


def _attempt(
    action: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T | _Unreadable:
    try:
        return action(*args, **kwargs)
    except KsymsError as error:
        return _Unreadable(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _Unreadable(f"{where}{error.strerror or error}")
