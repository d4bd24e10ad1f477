"""Open handles, and who still holds one: close(2) is not enough to know.

RELEASE comes late (after the reply to close, in a queue of its own) and not at all
while a mapping is left. ksyms(4) frees a process's slot at the last close of its
descriptors. Only /proc tells about those, and it knows them by generation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ksymsfs.generation import Generation
from ksymsfs.process import ProcessId


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


def is_held(
    handle: Handle,
    siblings: Iterable[Handle],
    files: Sequence[set[int]],
    *,
    descends: Callable[[int, int], bool],
    is_mapped_by: Callable[[int], bool],
) -> bool:
    """Whether *handle*, which was flushed, still has a descriptor somewhere.

    *siblings* are the other handles of its generation, and *files* the processes that
    have each open file of that generation. *descends* tells whether the first process
    comes from the second, *is_mapped_by* whether a process has the generation mapped.

    Which file is whose follows from these, mostly by counting: a handle never flushed
    has its file in its owner; the others' are the files that remain. Where fewer
    remain than there are handles, they go to those that nothing else keeps alive,
    nearest relatives first.
    """
    spare = list(files)
    lingering = []
    for sibling in siblings:
        if sibling.flushed:
            lingering.append(sibling)
            continue
        own = [f for f in spare if sibling.owner and sibling.owner.tgid in f]
        if own:
            spare.remove(min(own, key=len))
    lingering.append(handle)  # last: nobody is refused on a mere suspicion
    if not spare or len(spare) >= len(lingering):
        return bool(spare)

    def claim(claimant: Handle, file: set[int]) -> tuple[bool, bool, int]:
        # How weak it is. Who has nothing mapped must have a descriptor.
        if claimant.owner is None:
            return True, claimant.freed, 3
        owner = claimant.owner.tgid
        near = 0 if owner in file else 2
        if near and any(descends(tgid, owner) for tgid in file):
            near = 1
        return is_mapped_by(owner), claimant.freed, near

    claims = sorted(
        (claim(claimant, file), i, j)
        for i, claimant in enumerate(lingering)
        for j, file in enumerate(spare)
    )
    holders: set[int] = set()
    held: set[int] = set()
    for _, i, j in claims:
        if i not in holders and j not in held:
            holders.add(i)
            held.add(j)
    return len(lingering) - 1 in holders
