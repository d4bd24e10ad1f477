"""Records what a libbpf says to the sources in tests/data/libbpf; run as root.

    PYTHONPATH=.:client python -m tests.ksyms.record_libbpf LOADER FOLDER FILE

LOADER runs libbpf_load, built with the libbpf to record; FOLDER has sources
(NAME.bpf.c) and objects (NAME.o), FILE becomes tests/data/libbpf/said.tar.xz: each
source, its object without debug sections, and what was said of it that matters here
(NAME.said).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

from tests.ksyms.clang import build
from tests.ksyms.libbpf_said import KEPT


def kept(text: str) -> str:
    """The lines that a test asks about."""
    lines = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "btf":
            lines.append(f"btf-sha256 {sha256(bytes.fromhex(rest)).hexdigest()}")
        elif kind not in ("warn", "debug") or KEPT.search(
            rest.removeprefix("libbpf: ")
        ):
            lines.append(line.replace(" libbpf: ", " "))
    return "\n".join(lines) + "\n"


def main(loader: str, folder: str, archive: str) -> None:
    members: dict[str, list[tuple[str, bytes]]] = {".bpf.c": [], ".said": [], ".o": []}
    with tempfile.TemporaryDirectory() as temporary:
        for source in sorted(Path(folder).iterdir()):
            name = source.name.partition(".")[0]
            path = Path(temporary, f"{name}.o")
            if source.suffix == ".c":
                build(path.parent, name, source.read_text())
                members[".bpf.c"].append((name, source.read_bytes()))
            else:
                path.write_bytes(source.read_bytes())
            subprocess.run(["llvm-strip", "-g", path], check=True)
            done = subprocess.run([loader, path], capture_output=True, check=True)
            said = kept(done.stdout.decode(errors="surrogateescape"))
            members[".said"].append((name, said.encode(errors="surrogateescape")))
            members[".o"].append((name, path.read_bytes()))
    # Like beside like packs best.
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for suffix, files in members.items():
            for name, data in files:
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
