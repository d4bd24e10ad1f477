"""Open handles, and who still holds one: close(2) is not enough to know.

RELEASE comes late (after the reply to close, in a queue of its own) and not at all
while a mapping is left. ksyms(4) frees a process's slot at the last close of its
descriptors. Only /proc tells about those, and it knows them by generation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ksymsfs.assignment import cheapest_assignment
from ksymsfs.generation import Generation
from ksymsfs.process import Descriptor, ProcessId

MOST = 64
"""Handles of one generation among which is decided whose open file is whose."""

# What is_held pays to give a file to a handle that it cannot be of, and what it saves
# to give one to a handle that must have one.
NEVER, MUST = 1_000_000, 1_000


@dataclass(eq=False, slots=True)
class Handle:
    """One open of one generation."""

    generation: Generation
    owner: ProcessId | None
    """Who opened it; None for a process that cannot be seen."""
    flushed: bool = False
    """Some descriptor was closed. One cannot leave a process without that."""
    freed: bool = False
    """Found without a descriptor: it no longer occupies its owner's slot."""
    before: frozenset[Descriptor] = frozenset()
    """Descriptors of the generation that its owner had already, and has: others'."""

    def may_own(self, file: Sequence[Descriptor]) -> bool:
        """Whether *file*, the descriptors of one open file, may be this open."""
        if self.owner is None:
            return True
        own = [d for d in file if d.tgid == self.owner.tgid]
        return not own or not self.before.issuperset(own)


def is_held(
    handle: Handle,
    siblings: Iterable[Handle],
    files: Sequence[Sequence[Descriptor]],
    *,
    descends: Callable[[int, int], bool],
    is_mapped_by: Callable[[int], bool],
) -> bool:
    """Whether *handle*, which was flushed, still has a descriptor somewhere.

    *siblings* are the other handles of its generation, and *files* the descriptors of
    each open file of that generation. *descends* tells whether the first process comes
    from the second, *is_mapped_by* whether a process has the generation mapped.

    Which file is whose follows from these, mostly by counting: a handle never flushed
    has its file in its owner; the others' are the files that remain. Where fewer
    remain than there are handles, they go to those that nothing else keeps alive, and
    to nearest relatives.
    """
    handles = [*siblings, handle]
    spare, lingering = list(files), 0
    for candidate in handles:
        if candidate.flushed:
            lingering += 1
            continue
        # None while its OPEN or its first FLUSH is under way.
        own = [f for f in spare if _owner_has(candidate, f) and candidate.may_own(f)]
        if own:
            spare.remove(own[0])
    if not spare or len(spare) >= lingering:
        return bool(spare)
    if len(handles) > MOST:
        return False  # nobody is refused on a mere suspicion

    def cost(candidate: Handle) -> Callable[[Sequence[Descriptor]], int]:
        owner = candidate.owner.tgid if candidate.owner else 0
        if not candidate.flushed:
            return lambda file: -MUST if _owner_has(candidate, file) else NEVER
        # Who has nothing mapped must have a descriptor. Of equals, it is another's.
        if candidate.freed:
            base = 3
        else:
            base = 0 if not owner or is_mapped_by(owner) else -MUST
        base += candidate is handle

        def of(file: Sequence[Descriptor]) -> int:
            if not owner:
                return base + 6
            if _owner_has(candidate, file):
                return base
            return base + (2 if any(descends(d.tgid, owner) for d in file) else 4)

        return of

    costs = [
        [of(file) if candidate.may_own(file) else NEVER for file in files]
        for candidate, of in ((c, cost(c)) for c in handles)
    ]
    by_file = [list(column) for column in zip(*costs, strict=True)]
    return len(handles) - 1 in cheapest_assignment(by_file)


def _owner_has(handle: Handle, file: Sequence[Descriptor]) -> bool:
    owner = handle.owner
    return owner is not None and any(d.tgid == owner.tgid for d in file)
