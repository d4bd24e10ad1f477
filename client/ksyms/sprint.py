"""The kernel's spelling of an address: ``name+0xoff/0xsize [module]``."""

from __future__ import annotations


def sprint_symbol(name: str, offset: int, size: int, module: str | None) -> str:
    """What %pS prints, as kernel/kallsyms.c's sprint_symbol() writes it."""
    text = f"{name}+{offset:#x}/{size:#x}"
    return f"{text} [{module}]" if module else text
