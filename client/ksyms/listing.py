"""Lines of nm(1) for the symbols of an image, made a column at a time."""

from __future__ import annotations

import sys
from array import array

from ksyms.elf import SHN_COMMON, SHN_UNDEF
from ksyms.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Listing:
    """The symbols of an image as lines.

    *radix* is x, d or o; *with_size* adds sizes, *size_for_value* prints them where
    addresses stand.
    """

    def __init__(
        self,
        image: Image,
        names: list[str],
        *,
        radix: str = "x",
        with_size: bool = False,
        size_for_value: bool = False,
    ) -> None:
        self._image = image
        self._names = names
        self._radix = radix
        self._with_size = with_size
        self._size_for_value = size_for_value

    def just_symbols(self, symbols: Sequence[int]) -> list[str]:
        """``name``, for the symbols of these indexes."""
        return [f"{self._names[i]}\n" for i in symbols]

    def posix(self, symbols: Sequence[int]) -> list[str]:
        """``name letter address size``, without leading zeros."""
        image, radix = self._image, self._radix
        lines = []
        for i in symbols:
            text = f"{self._names[i]} {image.nm_type(i)} "
            size = f"{image.st_size[i]:{radix}}" if image.st_size[i] else ""
            value = f"{nm_value(image, i):{radix}} {size}"
            if image.st_shndx[i] == SHN_UNDEF:
                value = " " * 8
            lines.append(f"{text}{value}\n")
        return lines

    def bsd(self, symbols: Sequence[int]) -> list[str]:
        r"""``address[ size] letter name[\t[module]]``, as /proc/kallsyms has them."""
        image = self._image
        if len(symbols) > len(image) // 2:
            # Nearly all: whole columns, of which some is left over, are faster.
            every = range(len(image))
            return list(map(self._bsd_lines(every).__getitem__, symbols))
        return self._bsd_lines(symbols)

    def _bsd_lines(self, symbols: Sequence[int]) -> list[str]:
        image = self._image
        whole = len(symbols) == len(image)
        numbers = self._size_numbers if self._size_for_value else self._value_numbers
        columns = [numbers(symbols)]
        if self._with_size:
            sizes = self._size_numbers(symbols)
            columns[0] = [
                f"{value} {size}" if image.st_size[i] else value
                for i, value, size in zip(symbols, columns[0], sizes, strict=True)
            ]
        letters = image.nm_types()
        columns.append(letters if whole else [letters[i] for i in symbols])
        columns.append(self._named(symbols))
        return list(map(" ".join, zip(*columns, strict=True)))

    def _named(self, symbols: Sequence[int]) -> list[str]:
        # Names, their modules and the ends of their lines.
        if len(symbols) < len(self._names):
            module = self._image.module
            return [f"{self._names[i]}{_suffix(module(i))}" for i in symbols]
        named: list[str] = []
        starts = [0, *self._image.run_starts]
        for start, end in zip(starts, [*starts[1:], len(symbols)], strict=True):
            suffix = _suffix(self._image.module(start))
            named += [name + suffix for name in self._names[start:end]]
        return named

    def _value_numbers(self, symbols: Sequence[int]) -> list[str]:
        image = self._image
        if len(symbols) == len(image):
            values = image.st_value.tolist()
        else:
            values = [image.st_value[i] for i in symbols]
        shndx = image.st_shndx.tobytes()
        if b"\0\0" in shndx or b"\xf2" in shndx:
            values = [nm_value(image, i) for i in symbols]
            blank = " " * (image.bits // 4)
            return [
                blank if image.st_shndx[i] == SHN_UNDEF else number
                for i, number in zip(symbols, self._numbers(values), strict=True)
            ]
        return self._numbers(values)

    def _size_numbers(self, symbols: Sequence[int]) -> list[str]:
        return self._numbers([self._image.st_size[i] for i in symbols])

    def _numbers(self, values: list[int]) -> list[str]:
        digits = self._image.bits // 4
        if self._radix != "x":
            return [f"{value:0{digits}{self._radix}}" for value in values]
        words = array("Q" if digits == 16 else "I", values)
        if sys.byteorder == "little":
            words.byteswap()
        # A third of the time of formatting one by one.
        return words.tobytes().hex("\n", digits // 2).split("\n") if values else []


def nm_value(image: Image, index: int) -> int:
    """What nm prints for a symbol's value: for a common one its size."""
    if image.st_shndx[index] == SHN_COMMON:
        return image.st_size[index]
    return image.st_value[index]


def _suffix(module: str | None) -> str:
    return f"\t[{module}]\n" if module else "\n"
