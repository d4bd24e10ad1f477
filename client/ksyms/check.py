"""Checks many objects on many kernels, whatever is wrong with one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

from ksyms.bpf.kernel_rules import KernelRules
from ksyms.bpf.kptrs import Kptrs
from ksyms.bpf.object import BpfObject
from ksyms.errors import KsymsError
from ksyms.kernel import Kernel
from ksyms.kptr_check import KptrChecker
from ksyms.resolution import Resolution, resolve

P = ParamSpec("P")
T = TypeVar("T")


class Answer(NamedTuple):
    """What a kernel makes of an object."""

    resolution: Resolution
    """Of its externs."""
    kptrs: Kptrs
    """Of its types and maps."""

    @property
    def verdict(self) -> str:
        """ "ok", or the errno of the first thing that fails: "-EINVAL"."""
        return self.kptrs.result if self.resolution.is_ok else self.resolution.result

    @property
    def errors(self) -> tuple[str, ...]:
        """All that fails, in words: libbpf's about externs, then the kernel's."""
        return (*self.resolution.messages, *self.kptrs.refusals)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may fail, or is not what it looks like."""
        return (*self.resolution.warnings, *self.kptrs.warnings)


class Check(NamedTuple):
    """One object on one kernel: the answer, or why there is none."""

    object: str
    kernel: str
    answer: Answer | None
    unreadable: str | None = None

    @property
    def verdict(self) -> str:
        """ "ok", "-EINVAL" ..., or "unreadable"."""
        return self.answer.verdict if self.answer else "unreadable"


class Report(NamedTuple):
    """All checks: every object on the first kernel, then on the next."""

    objects: tuple[str, ...]
    kernels: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def exit_status(self) -> int:
        """0: nothing fails; 1: something does; 2: some input is unreadable."""
        if any(check.answer is None for check in self.checks):
            return 2
        return int(any(check.verdict != "ok" for check in self.checks))

    def check(self, object: str, kernel: str) -> Check:
        """The check of *object* on *kernel*."""
        width = len(self.objects)
        row, column = self.objects.index(object), self.kernels.index(kernel)
        return self.checks[column * width + row]


def check_all(
    paths: Sequence[str],
    kernels: Iterable[tuple[str, Callable[[], Kernel]]],
    *,
    rules: KernelRules | None = None,
) -> Report:
    """Check the objects in the files *paths* on each of *kernels*.

    Those are names, and what loads them; one is in memory at a time. Special fields
    are seen by *rules*, or by those of each kernel. What cannot be read becomes a check
    without an answer.
    """
    objects = {path: _attempt(BpfObject.load, path) for path in paths}
    names, checks = [], []
    for name, load in kernels:
        names.append(name)
        kernel = _attempt(load)
        if isinstance(kernel, _Unreadable):
            judge: _Judge | _Unreadable = kernel
        else:
            judge = _Judge(kernel, KptrChecker(kernel, rules))
        checks += [_check(path, objects[path], name, judge) for path in paths]
    return Report(tuple(paths), tuple(names), tuple(checks))


class _Judge(NamedTuple):
    kernel: Kernel
    kptrs: KptrChecker

    def answer(self, obj: BpfObject) -> Answer:
        return Answer(resolve(obj, self.kernel), self.kptrs.check(obj))


def _check(
    path: str, obj: BpfObject | _Unreadable, name: str, judge: _Judge | _Unreadable
) -> Check:
    for part in (obj, judge):
        if isinstance(part, _Unreadable):
            return Check(path, name, None, part.reason)
    assert isinstance(obj, BpfObject)
    assert isinstance(judge, _Judge)
    answer = _attempt(judge.answer, obj)
    if isinstance(answer, _Unreadable):
        return Check(path, name, None, answer.reason)
    return Check(path, name, answer)


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
