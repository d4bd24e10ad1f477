"""``python -m ksyms``."""

from __future__ import annotations

from ksyms.cli import command

if __name__ == "__main__":
    command()
