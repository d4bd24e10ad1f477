"""Kallsyms tables of any size, shaped as those of a distribution's kernel."""

from __future__ import annotations

import random

_WORDS = (
    *("get", "put", "init", "exit", "read", "write", "open", "close", "alloc", "free"),
    *("lock", "unlock", "page", "folio", "inode", "dentry", "sock", "skb", "tcp", "nf"),
    *("queue", "work", "timer", "irq", "dev", "bus", "pci", "usb", "net", "xfrm"),
    *("hash", "list", "tree", "node", "cache", "slab", "mem", "map", "vma", "fault"),
)
_TEXT, _MODULES = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000


def kallsyms_table(symbols: int, modules: int) -> bytes:
    """A table of so many symbols, 60 % in the kernel, the others in *modules*.

    As in /proc/kallsyms the kernel's are sorted, those of a module are not, and the
    module loaded last comes first. The same arguments give the same bytes.
    """
    rng = random.Random(symbols)
    kernel = symbols * 6 // 10 - len(_MARKS)
    lines, address = [f"{_TEXT:016x} T {m}" for m in _MARKS[:2]], _TEXT
    for i in range(kernel):
        if i == kernel * 8 // 10:
            lines.append(f"{address:016x} T _etext")
        letter = rng.choice("tttT") if i < kernel * 8 // 10 else rng.choice("dDbr")
        lines.append(f"{address:016x} {letter} {_name(rng, i)}")
        # Aliases are as rare as they are in real tables.
        address += 0 if rng.random() < 0.01 else rng.randrange(1, 40) * 16
    lines.append(f"{address:016x} B _end")
    left = symbols - len(lines)
    sizes = [left // modules + (i < left % modules) for i in range(modules)]
    address = _MODULES
    blocks = []
    for number, size in enumerate(sizes):
        block = []
        for i in range(size):
            letter = rng.choice("ttttttTdbr")
            block.append(
                f"{address:016x} {letter} {_name(rng, i)}\t[module_{number:03}]"
            )
            address += rng.randrange(1, 20) * 16
        rng.shuffle(block)
        blocks.append(block)
        address = (address + 0xFFFF) & ~0xFFF
    for block in reversed(blocks):
        lines += block
    return ("\n".join(lines) + "\n").encode()


_MARKS = ("_stext", "_text", "_etext", "_end")


def _name(rng: random.Random, number: int) -> str:
    words = rng.choices(_WORDS, k=rng.choice((3, 3, 4, 5)))
    return "_".join(words) + f"_{number:x}"
