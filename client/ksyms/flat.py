"""Who owns which addresses in a table whose symbols do not overlap: a kernel's own."""

from __future__ import annotations

from ksyms.image import Image

_END = 1 << 64


def flat_bounds(image: Image) -> tuple[list[int], list[int]] | None:
    """Where the answer changes, and the index of the symbol that owns what follows.

    The first bound is 0; an owner of -1 is nobody. Of several symbols of one range, the
    first in the table has it. None where symbols overlap otherwise: ksyms.ranges tells
    them apart.
    """
    value, size = image.st_value.tolist(), image.st_size.tolist()
    for index in image.unplaced():
        size[index] = 0
    bounds: list[int] = []
    owners: list[int] = []
    end = 0
    for index in sorted(range(len(value)), key=value.__getitem__):
        length = size[index]
        if not length:
            continue
        start = value[index]
        if start < end:
            if bounds[-1] == start and end == start + length:
                continue
            return None
        if start > end:
            bounds.append(end)
            owners.append(-1)
        bounds.append(start)
        owners.append(index)
        end = start + length
    if end < _END:
        bounds.append(end)
        owners.append(-1)
    return bounds, owners
