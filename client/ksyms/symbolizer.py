"""Names addresses in the kernel's words, with little more than the image's bytes."""

from __future__ import annotations

from ksyms.addresses import AddressIndex
from ksyms.image import Image
from ksyms.sprint import sprint_symbol


class Symbolizer:
    """Address -> the kernel's %pS, for programs that print and end.

    It answers as SymbolTable does, but makes no Symbol, whose class alone takes longer
    to import than an answer takes.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._addresses = AddressIndex(image)

    @property
    def bits(self) -> int:
        """The width of an address: 32 or 64."""
        return self._image.bits

    @property
    def extent(self) -> tuple[int, int]:
        """The lowest and the highest address that may have a name."""
        return self._addresses.extent

    def name(self, address: int) -> str | None:
        """``name [module]`` of the symbol that covers *address*, None if none does."""
        index = self._addresses.find(address)
        if index < 0:
            return None
        module = self._image.module(index)
        return f"{self._image.name(index)}{f' [{module}]' if module else ''}"

    def sprint(self, address: int, *, return_address: bool = False) -> str | None:
        """``name+0xoff/0xsize [module]``, None where no symbol covers *address*.

        With *return_address* it is %pB: the symbol of the byte before, since a call
        at the end of a function returns to the start of the next one.
        """
        index = self._addresses.find(address - return_address)
        if index < 0:
            return None
        image = self._image
        return sprint_symbol(
            image.name(index),
            address - image.st_value[index],
            image.st_size[index],
            image.module(index),
        )
