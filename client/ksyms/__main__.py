"""``python -m ksyms``."""

from __future__ import annotations

import sys

from ksyms.cli import main

if __name__ == "__main__":
    sys.exit(main())
