"""The BTF that libbpf hands to the kernel for an object: not quite the compiler's.

libbpf 1.8, bpf_object__collect_externs() and btf_fixup_datasec(): compilers leave the
layout of sections to the symbol table, and kernels know no externs.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from ksyms.bpf.elf import BpfElf
from ksyms.bpf.externs import KCONFIG, KSYMS, Extern
from ksyms.bpf.maps import is_static, placed_variables, visible_objects
from ksyms.btf import Btf
from ksyms.btf_types import GLOBAL, STATIC, Kind, SectionVariable, Type

_DUMMY = "dummy_ksym"
_FAKE_SIZE = 4  # bytes of the int that stands for each ksym
_MASK = 0xFFFFFFFF


def loader_btf(elf: BpfElf, btf: Btf, externs: Sequence[Extern]) -> bytes:
    """The .BTF of *elf* as libbpf would load it, in the byte order it has.

    Raises BtfError where a section lists what is no variable.
    """
    return _Writer(elf, btf, externs).to_bytes()


class _Writer:
    def __init__(self, elf: BpfElf, btf: Btf, externs: Sequence[Extern]) -> None:
        self.btf = btf
        self.words: array[int] = btf.words
        self.strings = btf.strings
        self.int = self._find_int()
        self.objects = visible_objects(elf)
        for section in map(btf.__getitem__, btf.ids(Kind.DATASEC)):
            if section.name == KSYMS:
                self._write(section, *self._ksyms(section))
            elif section.name == KCONFIG:
                self._write(section, *self._kconfig(section, externs))
            else:
                self._write(section, *self._data(elf, section))

    def to_bytes(self) -> bytes:
        order = "<" if self.btf.byteorder == "little" else ">"
        types = struct.pack(f"{order}{len(self.words)}I", *self.words)
        strings = self.strings
        header = struct.pack(
            order + "HBBI4I",
            *(0xEB9F, 1, 0, 24),
            *(0, len(types), len(types), len(strings)),
        )
        return header + types + strings

    # find_int_btf_id(): the first integer of 32 bits; 0 for none, as libbpf has it.
    def _find_int(self) -> int:
        for number in map(self.btf.__getitem__, self.btf.ids(Kind.INT)):
            if self.btf.encoding(number).bits == 8 * _FAKE_SIZE:
                return number.id
        return 0

    def _write(
        self, section: Type, size: int, variables: Sequence[SectionVariable]
    ) -> None:
        # libbpf counts in 32 bits.
        at = self.btf.word_of(section.id)
        self.words[at + 2] = size & _MASK
        for number, variable in enumerate(variables):
            start = at + 3 + 3 * number
            self.words[start : start + 3] = array("I", (n & _MASK for n in variable))

    # An int each, one behind the other; for all functions the same one.
    def _ksyms(self, section: Type) -> tuple[int, list[SectionVariable]]:
        variables = []
        dummy = 0
        for number, variable in enumerate(self.btf.variables(section)):
            extern = self.btf[variable.type_id]
            at = self.btf.word_of(extern.id)
            type_id = extern.id
            if extern.kind is Kind.FUNC:
                type_id = dummy = dummy or self._add_dummy()
                self.words[at + 1] = self.words[at + 1] & ~0xFFFF | GLOBAL
                self._name_params(self.btf[extern.type_id])
            elif extern.kind is Kind.VAR:
                self.words[at + 2 : at + 4] = array("I", [self.int, GLOBAL])
            variables.append(SectionVariable(type_id, _FAKE_SIZE * number, _FAKE_SIZE))
        return _FAKE_SIZE * len(variables), variables

    # VAR dummy_ksym behind all other types.
    def _add_dummy(self) -> int:
        name = self._string(_DUMMY)
        self.words.extend([name, Kind.VAR << 24, self.int, GLOBAL])
        return self.btf.end_id

    def _string(self, text: str) -> int:
        wanted = b"\0" + text.encode() + b"\0"
        at = self.strings.find(wanted)
        if at < 0:
            at = len(self.strings) - 1
            self.strings += wanted[1:]
        return at + 1

    def _name_params(self, proto: Type) -> None:
        at = self.btf.word_of(proto.id) + 3
        for number, param in enumerate(self.btf.params(proto)):
            if param.type_id and not self.words[at + 2 * number]:
                self.words[at + 2 * number] = self._string(_DUMMY)

    # By alignment, size and name, the most aligned first.
    def _kconfig(
        self, section: Type, externs: Sequence[Extern]
    ) -> tuple[int, list[SectionVariable]]:
        def order(extern: Extern) -> tuple[int, int, bytes]:
            name = extern.name.encode("utf-8", "surrogateescape")
            return -self._alignment(extern), self._size(extern), name

        offsets = {}
        end = 0
        for extern in sorted((e for e in externs if e.kind == "kconfig"), key=order):
            end += -end % self._alignment(extern)
            offsets[extern.btf_id] = end
            end += self._size(extern)
        variables = []
        for variable in self.btf.variables(section):
            if self.btf[variable.type_id].kind is Kind.VAR:
                self.words[self.btf.word_of(variable.type_id) + 3] = GLOBAL
            offset = offsets.get(variable.type_id, variable.offset)
            variables.append(variable._replace(offset=offset))
        return end, sorted(variables, key=lambda variable: variable.offset)

    # btf__align_of() of what a kernel configuration variable can be.
    def _alignment(self, extern: Extern) -> int:
        type = self.btf.skip_modifiers(extern.type_id)
        while type.kind is Kind.ARRAY:
            type = self.btf.skip_modifiers(self.btf.array(type).type_id)
        return min(8, max(1, type.size))

    def _size(self, extern: Extern) -> int:
        return self.btf.size_of(extern.type_id) or 0

    # What is hidden in ELF becomes static.
    def _data(
        self, elf: BpfElf, section: Type
    ) -> tuple[int, Sequence[SectionVariable]]:
        variables = placed_variables(self.objects, self.btf, section)
        for var in (self.btf[variable.type_id] for variable in variables):
            if is_static(self.objects, self.btf, var):
                self.words[self.btf.word_of(var.id) + 3] = STATIC
        found = elf.section(section.name)
        return section.size or (found.size if found else 0), variables
