"""The string section of a BTF, which for a split one continues that of its base."""

from __future__ import annotations

from ksyms.image import indexes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ksyms.elf import Data

NAME_MAX = 4096  # bytes of a name; the kernel's own limit is 512


class BtfStrings:
    """The names in *data* from *at* on, *length* bytes; *base* has those before."""

    def __init__(
        self, data: Data, at: int, length: int, base: BtfStrings | None
    ) -> None:
        self._data, self._at, self._base = data, at, base
        self._start: int = 0 if base is None else base.end
        self.end: int = self._start + length

    def __bytes__(self) -> bytes:
        """The section itself, without the base's."""
        return self._data[self._at : self._at + self.end - self._start]

    def text(self, offset: int) -> str:
        """The name at *offset*. Raises ValueError, with the reason, where none is."""
        if offset < self._start and self._base is not None:
            return self._base.text(offset)
        if offset >= self.end:
            raise ValueError(
                f"name offset {offset - self._start:#x} is outside the strings"
            )
        at = self._at + offset - self._start
        end = self._data.find(b"\0", at, at + NAME_MAX)
        if end < 0:
            raise ValueError(f"a name is longer than {NAME_MAX} bytes")
        return self._data[at:end].decode("utf-8", "surrogateescape")

    def find(self, name: bytes) -> Iterator[int]:
        """Every offset at which *name* can be read.

        Nothing forbids a writer to repeat a string, or to point into the tail of a
        longer one.
        """
        if self._base is not None:
            yield from self._base.find(name)
        end = self._at + self.end - self._start
        for at in indexes(self._data, name + b"\0", self._at, end):
            yield self._start + at - self._at
