"""A BPF object's special fields on a kernel: its types, its destructors, its rules."""

from __future__ import annotations

from ksyms.bpf.kernel_rules import (
    FIELD_KINDS,
    OLDEST,
    KernelRules,
    rules_for,
    version,
)
from ksyms.bpf.kptrs import Kptrs, find_kptrs
from ksyms.bpf.object import BpfObject
from ksyms.bpf.targets import KernelTypes
from ksyms.btf import Btf
from ksyms.btf_types import Kind
from ksyms.destructor_probe import DestructorProbe
from ksyms.destructors import guess_destructors
from ksyms.kernel import Kernel


def check_kptrs(
    obj: BpfObject, kernel: Kernel, *, rules: KernelRules | None = None
) -> Kptrs:
    """Which special fields *kernel* sees in the maps of *obj*, and what it refuses.

    *rules* are those of the kernel's own age if none are given. Raises BtfError where
    the kernel's BTF cannot be followed, OSError where a module's cannot be read.

    >>> ksyms.check_kptrs(BpfObject.load("prog.bpf.o"), Kernel.load("debian12")).result
    """
    return KptrChecker(kernel, rules).check(obj)


class KptrChecker:
    """Checks many objects on one kernel: what it finds out once it remembers."""

    def __init__(self, kernel: Kernel, rules: KernelRules | None = None) -> None:
        self._kernel = kernel
        self._rules = rules
        self._destructors = _Destructors(kernel)
        self._types = KernelTypes(kernel, self._destructors.has)

    def check(self, obj: BpfObject) -> Kptrs:
        """The answer for *obj*: see check_kptrs()."""
        rules = self._rules or rules_of(self._kernel, obj)
        self._destructors.guesses.clear()
        found = find_kptrs(obj, self._types, rules)
        return found._replace(warnings=(*found.warnings, *self._warnings(obj)))

    def _warnings(self, obj: BpfObject) -> list[str]:
        warnings = [
            f"whether the kernel has a destructor for struct {name} is guessed from "
            "the names of its functions (ksyms capture asks it, with CAP_BPF)"
            for name in sorted(self._destructors.guesses)
        ]
        release = self._kernel.facts.release or ""
        if (0, 0) < version(release) < OLDEST and not self._rules and has_fields(obj):
            oldest = ".".join(map(str, OLDEST))
            warnings.append(
                f"Linux {release} is older than the rules for special fields that are "
                f"applied to it, those of {oldest} and later: it knows fewer of them"
            )
        return warnings


def rules_of(kernel: Kernel, obj: BpfObject) -> KernelRules:
    """The rules of *kernel* for *obj*.

    Its BTF is asked only for an object that has something to be seen by rules.
    """
    facts = kernel.facts
    rules = rules_for(facts.release, kernel.btf if has_fields(obj) else None)
    return rules._replace(page_size=facts.page_size or rules.page_size)


def has_fields(obj: BpfObject) -> bool:
    """Whether anything in the types of *obj* can be a special field."""
    return obj.btf is not None and (
        bool(obj.btf.ids(Kind.TYPE_TAG))
        or any(obj.btf.lookup_all(name, Kind.STRUCT) for name in FIELD_KINDS)
    )


# Facts say it, or the kernel itself where it is the one that runs and lets itself be
# asked; else the names of its functions have to do.
class _Destructors:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._probe: DestructorProbe | None = None
        self._may_probe = kernel.is_running
        self._guessed: dict[str, frozenset[str]] = {}
        self.guesses: set[str] = set()

    def has(self, name: str, btf: Btf) -> bool:
        known = self._kernel.facts.destructors
        if known is not None and known.found_by != "heuristic":
            return name in known.types
        if self._may_probe:
            try:
                self._probe = self._probe or DestructorProbe()
                return self._probe.accepts(name)
            except OSError:
                self._may_probe = False
        self.guesses.add(name)
        if btf.name not in self._guessed:
            self._guessed[btf.name] = guess_destructors(btf).types
        return name in self._guessed[btf.name] or (
            known is not None and name in known.types
        )
