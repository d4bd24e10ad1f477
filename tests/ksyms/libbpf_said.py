"""What libbpf_load.c prints, read; and where our answer is another one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple, Self

from ksyms.bpf.instruction import CALL, POISON
from ksyms.bpf.kptrs import Kptrs, MapFields
from ksyms.bpf.object import BpfObject
from ksyms.bpf.refusal import errno_name
from ksyms.resolution import PatchedInstruction, Resolution

# libbpf's lines about externs: all it says of them once they are resolved.
SET = re.compile(r"extern \(ksym\) '(.*)': set to (0x[0-9a-f]+)$")
VAR = re.compile(r"extern \(var ksym\) '(.*)': resolved to \[(\d+)\]")
FUNC = re.compile(r"extern \(func ksym\) '(.*)': resolved to \S+ \[(\d+)\]")
WEAK = re.compile(r"extern '(.*)' \(weak\): not resolved")
USED = re.compile(r"prog '.*': found extern #\d+ '(.*)' \(sym \d+\) for insn #\d+$")
LISTED = re.compile(r"extern \(ksym\) #\d+: symbol (\d+), name (.*)$")
PROGRAM = re.compile(
    r"sec '(.*)': found program '(.*)' at insn offset (\d+) .*size (\d+)"
)
SUBPROGRAM = re.compile(
    r"prog '(.*)': insn #\d+ relocated, .* subprog '(.*)' \(now at (\d+) offset\)"
)
RETRY = re.compile(r"Error in bpf_create_map_xattr\((.*)\): (\S+)\. Retrying")
CREATE = re.compile(r"map '(.*)': failed to create: (\S+)$")
MMAP = re.compile(r"map '(.*)': failed to re-mmap\(\) contents: (\S+)$")
BTF_LOAD = re.compile(r"BTF loading error: (\S+)$")
ABOUT_EXTERNS = re.compile(r"extern|kallsyms entry|valid kernel BTF")
KEPT = re.compile(
    "|".join(
        f"(?:{pattern.pattern})"
        for pattern in (
            *(SET, VAR, FUNC, WEAK, USED, LISTED, PROGRAM, SUBPROGRAM, RETRY, CREATE),
            *(MMAP, BTF_LOAD, ABOUT_EXTERNS),
        )
    )
    + "|^sec |^map '.*[.]$|^prog '.*': bad |^elf: legacy|^DATASEC|^BTF is required"
)
"""The lines worth keeping of a record."""


class Said(NamedTuple):
    """What libbpf_load printed."""

    warnings: list[str]
    debug: list[str]
    maps: list[str]
    code: dict[str, bytes]
    """Of each program, with its subprograms behind it."""
    btf: str | None
    """SHA-256 of the object's BTF, once it is open."""
    step: str
    """The last one: open or load."""
    errno: int
    """0 or negative."""
    version: tuple[int, int]
    """Of the libbpf."""

    @classmethod
    def parse(cls, text: str) -> Self:
        lines: dict[str, list[str]] = {}
        for line in text.splitlines():
            kind, _, rest = line.partition(" ")
            lines.setdefault(kind, []).append(rest.removeprefix("libbpf: "))
        code = {}
        for line in lines.get("insns", []):
            _, program, data = line.rsplit(" ", 2)
            code[program] = bytes.fromhex(data)
        digests = [sha256(bytes.fromhex(h)).hexdigest() for h in lines.get("btf", [])]
        digests += lines.get("btf-sha256", [])
        major, _, minor = lines.get("version", ["1.7"])[0].partition(".")
        step, _, errno = text.splitlines()[-1].partition(" ")
        return cls(
            lines.get("warn", []),
            lines.get("debug", []),
            lines.get("map", []),
            code,
            digests[0] if digests else None,
            step,
            int(errno),
            (int(major), int(minor)),
        )

    @property
    def result(self) -> str:
        return errno_name(-self.errno) if self.errno else "ok"

    def found(self, *patterns: re.Pattern[str]) -> dict[str, str]:
        """The two groups of all lines that match."""
        lines = (*self.warnings, *self.debug)
        matches = (p.search(line) for p in patterns for line in lines)
        return {m[1]: m[2] for m in matches if m}


# Sections lose their object's name, which libbpf puts before them.
def _plain(line: str) -> str:
    return re.sub(r"^\S*?(\.(?:data|rodata|bss))\b", r"\1", line)


def of_1_8(text: str) -> str:
    """A message of libbpf 1.1 as 1.8 words it."""
    text = re.sub(r"(failed to determine size .*, err) -2$", r"\1 -ENOENT", text)
    return re.sub(r"(func_proto .* incompatible with) kernel", r"\1 vmlinux", text)


def about_opening(obj: BpfObject, said: Said) -> Iterator[str]:
    """Where libbpf opens an object otherwise than we do."""
    texts = [of_1_8(text) for text in (*said.warnings, *said.debug)]
    if obj.failures or said.step == "open":
        if not obj.failures or said.step != "open":
            yield f"open: {said.result} {said.warnings}, ours {obj.failures}"
        elif obj.failures[0].result != said.result:
            yield f"open: {said.result} {said.warnings}, ours {obj.failures[0]}"
        elif obj.failures[0].message not in texts:
            yield f"open: {said.warnings}, ours {obj.failures[0].message}"
        return
    listed = [m.groups() for text in said.debug if (m := LISTED.match(text))]
    ksyms = [(str(e.symbol), e.name) for e in obj.externs if e.kind != "kconfig"]
    if listed != ksyms:
        yield f"externs: {listed}, ours {ksyms}"
    used = sorted(m[1] for text in said.debug if (m := USED.match(text)))
    uses = sorted(use.extern for use in obj.uses)
    if used != uses:
        yield f"uses: {used}, ours {uses}"
    ours = sha256(obj.loader_btf).hexdigest() if obj.loader_btf else None
    if said.btf != ours:
        yield "the BTF is another one"


def about_maps(obj: BpfObject, said: Said) -> Iterator[str]:
    """Where libbpf has other maps than we have."""
    theirs = [
        _plain(line) for line in said.maps if not re.search(r"^\S*\.kconfig ", line)
    ]
    ours = [
        f"{m.name} {m.type} {m.key_size} {m.value_size} {m.max_entries} "
        f"{m.map_flags:#x} {m.key_type_id} {m.value_type_id}".replace(" 0x0 ", " 0 ")
        for m in obj.maps
    ]
    if theirs != ours:
        yield f"maps: {theirs}, ours {ours}"


def about_externs(answer: Resolution, said: Said) -> Iterator[str]:
    """Where libbpf resolves externs otherwise."""
    told = [of_1_8(text) for text in said.warnings if ABOUT_EXTERNS.search(text)]
    if told[:1] != ([answer.error] if answer.error else []):
        yield f"error: {told}, ours {answer.error}"
    # Loading may fail later, for what has nothing to do with externs.
    if answer.error and said.result != answer.result:
        yield f"result: {said.result}, ours {answer.result}"
    found = {e.extern.name: e for e in answer.externs}
    for name, address in said.found(SET).items():
        extern = found[name]
        unlike = extern.address != int(address, 16)
        if extern.btf is None and extern.status != "error" and unlike:
            yield f"{name}: {address}, ours {extern}"
    types = said.found(VAR, FUNC)
    for name, number in types.items():
        if found[name].btf_id != int(number):
            yield f"{name}: [{number}], ours {found[name]}"
    for text in said.debug:
        if (m := WEAK.match(text)) and found[m[1]].status != "unresolved":
            yield f"{m[1]}: not resolved, ours {found[m[1]]}"
    if answer.is_ok:
        resolved = {e.extern.name for e in answer.externs if e.status == "resolved"}
        if not resolved <= {*types, *said.found(SET)}:
            yield f"resolved: {sorted(types)}, ours {sorted(resolved)}"


def about_instructions(
    answer: Resolution, said: Said, *, poisons: bool = True
) -> Iterator[str]:
    """Where libbpf relocates instructions otherwise.

    Calls of absent functions are poisoned since libbpf 1.2.
    """
    if not answer.is_ok:
        return
    for section, offset, code in _placed_code(said):
        for patched in answer.instructions:
            if patched.section != section or not _is_in(patched, offset, code):
                continue
            insn = patched.instruction
            if insn.code == CALL and insn.imm >= POISON and not poisons:
                continue
            ours = insn.to_bytes("little")
            at = patched.offset - offset
            if code[at : at + len(ours)] != ours:
                theirs = code[at : at + len(ours)].hex()
                yield f"{section}+{patched.offset:#x}: {theirs}, ours {ours.hex()}"


def _is_in(patched: PatchedInstruction, offset: int, code: bytes) -> bool:
    return offset <= patched.offset < offset + len(code)


# (section, offset, code) of programs, and of the subprograms in each.
def _placed_code(said: Said) -> Iterator[tuple[str, int, bytes]]:
    programs = {}
    for text in said.debug:
        if m := PROGRAM.match(text):
            programs[m[2]] = m[1], 8 * int(m[3]), 8 * int(m[4])
    inside = [m.groups() for text in said.debug if (m := SUBPROGRAM.match(text))]
    for program, code in said.code.items():
        places = [(program, 0)]
        places += [(sub, 8 * int(at)) for owner, sub, at in inside if owner == program]
        for name, at in places:
            section, offset, size = programs[name]
            # What is not loaded by itself is not relocated.
            if not section.startswith("?"):
                yield section, offset, code[at : at + size]


def about_fields(kptrs: Kptrs, said: Said) -> Iterator[str]:
    """Where the kernel takes an object's BTF and maps otherwise (libbpf 1.6 on)."""
    refused = [m[1] for text in said.warnings if (m := BTF_LOAD.match(text))]
    ours = kptrs.btf_load.result if kptrs.btf_load else None
    if _errno(refused[0] if refused else None) != _errno(ours):
        yield f"BPF_BTF_LOAD: {refused}, ours {kptrs.btf_load}"
    retried, failed, unmapped = (said.found(p) for p in (RETRY, CREATE, MMAP))
    for found in kptrs.maps:
        name = _of_the_map(found, {**retried, **failed})
        mmap = unmapped.get(name)
        if _errno(mmap) != _errno(found.mmap.result if found.mmap else None):
            yield f"{name}: mmap {mmap}, ours {found.mmap}"
        first = retried.get(name, None if mmap else failed.get(name))
        ours = found.map_create.result if found.map_create else None
        if _errno(first) != _errno(ours):
            yield f"{name}: BPF_MAP_CREATE {first}, ours {found.map_create}"
        if name in failed:
            break


def _of_the_map(found: MapFields, names: dict[str, str]) -> str:
    name = found.map.name
    return next((n for n in names if _plain(n) == name), name)


def _errno(name: str | None) -> str | None:
    return "-ENOTSUP" if name == "-EOPNOTSUPP" else name
