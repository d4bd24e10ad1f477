"""Lines of nm(1) for the symbols of an image, made a column at a time."""

from __future__ import annotations

import sys

from ksyms.elf import SHN_COMMON, SHN_UNDEF
from ksyms.image import Image, take

_PART = 4096  # lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    # By index: of all symbols, or of those that are asked for.
    Names = list[str] | Mapping[int, str]


def posix_lines(
    image: Image, names: Names, symbols: Sequence[int], radix: str = "x"
) -> list[str]:
    """``name letter address size``, numbers without leading zeros."""
    lines = []
    for i in symbols:
        size = f"{image.st_size[i]:{radix}}" if image.st_size[i] else ""
        numbers = f"{nm_value(image, i):{radix}} {size}"
        if image.st_shndx[i] == SHN_UNDEF:
            numbers = " " * 8
        lines.append(f"{names[i]} {image.nm_type(i)} {numbers}")
    return lines


def bsd_lines(
    image: Image,
    names: Names,
    symbols: Sequence[int],
    *,
    radix: str = "x",
    with_size: bool = False,
    size_for_value: bool = False,
) -> Iterable[str]:
    r"""``address[ size] letter name[\t[module]]``, as in /proc/kallsyms.

    *size_for_value* prints sizes where addresses stand.
    """
    if not isinstance(symbols, range) and len(symbols) > len(image) // 2:
        # Lines of all symbols in the table's order, which is that of memory, and then
        # those in the order asked for: half the time of going to and fro. A part at a
        # time takes less memory, and so less time.
        lines: list[str] = []
        for start in range(0, len(image), _PART):
            lines += bsd_lines(
                image,
                names,
                range(start, min(start + _PART, len(image))),
                radix=radix,
                with_size=with_size,
                size_for_value=size_for_value,
            )
        return map(lines.__getitem__, symbols)
    sizes = take(image.st_size, symbols) if with_size or size_for_value else []
    if size_for_value:
        numbers = _numbers(image, sizes, radix)
    else:
        numbers = _value_numbers(image, symbols, radix)
    if with_size:
        both = zip(numbers, sizes, _numbers(image, sizes, radix), strict=True)
        numbers = [f"{n} {text}" if size else n for n, size, text in both]
    letters = image.nm_types(symbols)
    named = _named(image, names, symbols)
    return map(" ".join, zip(numbers, letters, named, strict=True))


def nm_value(image: Image, index: int) -> int:
    """What nm prints for a symbol's value: for a common one its size."""
    if image.st_shndx[index] == SHN_COMMON:
        return image.st_size[index]
    return image.st_value[index]


def symbol_record(image: Image, index: int, name: str) -> dict[str, object]:
    """What --json prints for a symbol."""
    undefined = image.st_shndx[index] == SHN_UNDEF
    return {
        "name": name,
        "address": None if undefined else f"{nm_value(image, index):#x}",
        "size": image.st_size[index],
        "type": image.nm_type(index),
        "module": image.module(index),
    }


def _value_numbers(image: Image, symbols: Sequence[int], radix: str) -> list[str]:
    if image.has_linker_files:
        # The kernel's symbols are all defined, and none is common.
        if isinstance(symbols, range) and radix == "x":
            return _hex(image, image.st_value[symbols.start : symbols.stop].tobytes())
        return _numbers(image, take(image.st_value, symbols), radix)
    numbers = _numbers(image, [nm_value(image, i) for i in symbols], radix)
    blank = " " * (image.bits // 4)
    return [
        blank if image.st_shndx[i] == SHN_UNDEF else number
        for i, number in zip(symbols, numbers, strict=True)
    ]


def _numbers(image: Image, values: list[int], radix: str) -> list[str]:
    if radix == "x" and len(values) > 1000:
        return _hex(image, values)
    return [f"{value:0{image.bits // 4}{radix}}" for value in values]


def _hex(image: Image, values: list[int] | bytes) -> list[str]:
    # All digits of each value (or word): a third of the time of formatting one by one.
    from array import array

    words = array("Q" if image.bits == 64 else "I", values)
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes().hex("\n", words.itemsize).split("\n")


def _named(image: Image, names: Names, symbols: Sequence[int]) -> list[str]:
    # Names, with their modules.
    if not isinstance(names, list) or not isinstance(symbols, range):
        return [f"{names[i]}{_suffix(image.module(i))}" for i in symbols]
    named: list[str] = []
    starts = [0, *image.run_starts]
    for start, end in zip(starts, [*starts[1:], len(image)], strict=True):
        part = names[max(start, symbols.start) : max(min(end, symbols.stop), 0)]
        if part:
            suffix = _suffix(image.module(start))
            named += [name + suffix for name in part] if suffix else part
    return named


def _suffix(module: str | None) -> str:
    return f"\t[{module}]" if module else ""
