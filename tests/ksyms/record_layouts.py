"""Records what the running kernel says to random layouts; run it as a module, as root.

    PYTHONPATH=.:client python -m tests.ksyms.record_layouts > FILE

FILE is tests/data/bpf_cases/layouts.json; a change of btf_layouts.py needs a new one.
"""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256

from tests.ksyms import live_bpf
from tests.ksyms.btf_layouts import Layouts

COUNT = 4000


def layout(seed: int) -> bytes:
    """The BTF for *seed*: every third one is spoiled."""
    layouts = Layouts(seed)
    return layouts.mutated() if seed % 3 == 0 else layouts.to_bytes()


def fingerprint() -> str:
    """Of all layouts: the record is worth nothing for others."""
    digest = sha256()
    for seed in range(COUNT):
        digest.update(layout(seed))
    return digest.hexdigest()


if __name__ == "__main__":
    record = {
        "release": os.uname().release,
        "sha256": fingerprint(),
        "errnos": [live_bpf.btf_load(layout(seed)) for seed in range(COUNT)],
    }
    json.dump(record, sys.stdout, separators=(",", ":"))
    print()
