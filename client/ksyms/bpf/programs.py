"""The functions of a BPF object: libbpf's programs and subprograms."""

from __future__ import annotations

from bisect import bisect_right

from ksyms.bpf.elf import SHF_EXECINSTR, BpfElf, ElfSymbol
from ksyms.elf import STT_FUNC


class Programs:
    """Tells the function at a place of the code (bpf_object__add_programs())."""

    def __init__(self, elf: BpfElf) -> None:
        code = {s.shndx for s in elf.sections if s.flags & SHF_EXECINSTR}
        self._starts: dict[int, list[int]] = {shndx: [] for shndx in code}
        self._symbols: dict[int, list[ElfSymbol]] = {shndx: [] for shndx in code}
        for symbol in sorted(elf.symbols, key=lambda symbol: symbol.value):
            if symbol.type == STT_FUNC and symbol.shndx in code:
                self._starts[symbol.shndx].append(symbol.value)
                self._symbols[symbol.shndx].append(symbol)

    def at(self, shndx: int, offset: int) -> ElfSymbol | None:
        """The function *offset* bytes into section *shndx*.

        None in data, and in code of no function: that of a weak function that a
        linker has found a better one for. Nobody runs it.
        """
        number = bisect_right(self._starts.get(shndx, []), offset) - 1
        if number < 0:
            return None
        found = self._symbols[shndx][number]
        return found if offset < found.value + found.size else None
