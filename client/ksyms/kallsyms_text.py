"""Images of what is none: kallsyms text and captures, made by mkksyms(1).

The image is all that the device and its client share; so the client has text made
into one by the device's own program, rather than reading it by rules of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from ksyms.errors import ImageError, RestrictedError


def looks_like_kallsyms(start: bytes) -> bool:
    """Whether a file that starts so is the text of /proc/kallsyms, or a System.map."""
    digits, space, rest = start.partition(b" ")
    return (
        space == b" "
        and 0 < len(digits) <= 16
        and not digits.strip(b"0123456789abcdefABCDEF")
        and rest[1:2] in (b" ", b"")
    )


def image_of_text(text: bytes, path: str, modules: str | None = None) -> bytes:
    """The image of the kallsyms *text*; *path* is for messages.

    *modules* is the file of /proc/modules that was saved with it, if one was. Raises
    ImageError with the reason and place where the text is malformed, RestrictedError
    where the kernel put 0 in place of every address.
    """
    with tempfile.TemporaryFile() as given:
        given.write(text)
        given.seek(0)
        result = subprocess.run(
            [
                *(sys.executable, "-m", "ksymsfs.mkksyms", "--kallsyms", "/dev/stdin"),
                *(["--modules", modules] if modules else []),
            ],
            stdin=given,
            capture_output=True,
            # Where this package was found, the other one is.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
    if result.returncode == 0:
        return result.stdout
    said = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    reason = said.removeprefix("mkksyms: ").removeprefix("/dev/stdin: ")
    if "CAP_SYSLOG" in reason:
        raise RestrictedError(f"{path}: {reason}")
    raise ImageError(path, reason or "mkksyms cannot make an image of it")
