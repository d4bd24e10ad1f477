"""libbpf's passes over the externs of an object: kallsyms, BTF, and what is left.

libbpf 1.8, bpf_object__resolve_externs(), except that a problem ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from ksyms.bpf.externs import Extern, Failure
from ksyms.bpf.object import BpfObject
from ksyms.btf import Btf
from ksyms.btf_types import Kind, Type
from ksyms.compat import types_are_compatible
from ksyms.kernel import Kernel


class Target:
    """What was found for an extern so far."""

    def __init__(self, extern: Extern) -> None:
        self.extern = extern
        self.address: int | None = None
        """Set by the kallsyms pass; 0 is an address like any other."""
        self.btf: Btf | None = None
        self.type: Type | None = None
        """The VAR or FUNC in that BTF; set by the BTF pass."""
        self.message: str | None = None
        """Why the object does not load."""

    @property
    def is_set(self) -> bool:
        """Whether libbpf takes it for resolved."""
        return self.address is not None or self.type is not None


class Resolver:
    """Runs the passes; *failures* has libbpf's first one first."""

    def __init__(self, obj: BpfObject, kernel: Kernel) -> None:
        self.obj = obj
        self.kernel = kernel
        self.targets = {extern.name: Target(extern) for extern in obj.externs}
        self.failures: list[Failure] = list(obj.failures)
        self._ksyms = [t for t in self.targets.values() if t.extern.kind != "kconfig"]

    def run(self) -> None:
        """Run the passes in libbpf's order."""
        typed = [t for t in self._ksyms if t.extern.type_id]
        typeless = len(typed) < len(self._ksyms)
        if typed and self.kernel.btf is None:
            self._miss_btf(typed)
        if typeless:
            self._kallsyms_pass([t for t in self._ksyms if t.extern.kind != "func"])
        if self.kernel.btf is not None and self.obj.btf is not None:
            for target in typed:
                self._btf_pass(target, self.obj.btf, self.kernel.btf)
        for target in self._ksyms:
            extern = target.extern
            if not target.is_set and not target.message and not extern.is_weak:
                text = f"extern '{extern.name}' (strong): not resolved"
                self._fail("-ESRCH", text, target)

    def _fail(self, result: str, message: str, *targets: Target) -> None:
        self.failures.append(Failure(result, message))
        for target in targets:
            target.message = target.message or message

    # Even where all typed externs are weak.
    def _miss_btf(self, typed: list[Target]) -> None:
        self._fail("-ESRCH", "failed to find valid kernel BTF", *typed)
        self._fail("-ESRCH", "Error loading vmlinux BTF: -ESRCH")

    # Typed variables take part as well, once a typeless extern makes the pass run.
    def _kallsyms_pass(self, targets: list[Target]) -> None:
        symbols = self.kernel.symbols
        ambiguous = []
        for target in targets:
            name = target.extern.name
            for position, address, _ in symbols.occurrences(name) if symbols else ():
                if target.address is None:
                    target.address = address
                elif target.address != address:
                    ambiguous.append((position, target, address))
                    break
        for _, target, address in sorted(ambiguous, key=lambda found: found[0]):
            text = (
                f"extern (ksym) '{target.extern.name}': resolution is ambiguous: "
                f"{target.address:#x} or {address:#x}"
            )
            self._fail("-EINVAL", text, target)
        broken = symbols.broken if symbols else "failed to open /proc/kallsyms: -ENOENT"
        if broken:
            # What was not read may be there: nothing can be said of these.
            unread = [t for t in targets if not t.is_set and t.extern.kind != "var"]
            self._fail("-EINVAL", broken, *unread)

    def _btf_pass(self, target: Target, local: Btf, vmlinux: Btf) -> None:
        extern = target.extern
        kind = Kind.FUNC if extern.kind == "func" else Kind.VAR
        for btf in self._btfs(vmlinux):
            found = btf.lookup_all(extern.essential_name, kind, own=True)
            if found:
                self._compare(target, local, btf, found[0])
                return
        if not extern.is_weak:
            where = "kernel BTF" if kind is Kind.VAR else "kernel or module BTFs"
            word = kind.word
            text = f"extern ({word} ksym) '{extern.name}': not found in {where}"
            self._fail("-EINVAL", text, target)

    # The kernel's own types, then those of each module itself.
    def _btfs(self, vmlinux: Btf) -> Iterator[Btf]:
        yield vmlinux
        yield from self.kernel.modules

    def _compare(self, target: Target, local: Btf, btf: Btf, found: Type) -> None:
        extern = target.extern
        is_func = extern.kind == "func"
        theirs = btf[found.type_id] if is_func else btf.skip_modifiers(found.type_id)
        if types_are_compatible(local, extern.type_id, btf, theirs.id):
            target.btf, target.type = btf, found
        elif is_func:
            # A weak function may be another one by now; a weak variable may not.
            if not extern.is_weak:
                text = (
                    f"extern (func ksym) '{extern.name}': func_proto "
                    f"[{extern.type_id}] incompatible with {btf.name} [{theirs.id}]"
                )
                self._fail("-EINVAL", text, target)
        else:
            ours = local[extern.type_id]
            text = (
                f"extern (var ksym) '{extern.name}': incompatible types, expected "
                f"[{ours.id}] {ours.kind.word} {ours.name}, but kernel has "
                f"[{theirs.id}] {theirs.kind.word} {theirs.name}"
            )
            self._fail("-EINVAL", text, target)
