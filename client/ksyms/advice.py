"""What to do when the device cannot be opened: a sentence for each reason."""

from __future__ import annotations

import errno
import os
import sys

_OR_NAME = "or name an image, a capture or kallsyms text with -k or $KSYMS"

# What ksymsfs(8) and ksyms(4) answer, and what it means.
_ADVICE = {
    errno.EACCES: f"only root may read it: run as root, {_OR_NAME}",
    errno.EPERM: "the kernel hides its addresses from this user (kernel.kptr_restrict):"
    f" run with CAP_SYSLOG, {_OR_NAME}",
    errno.EBUSY: "this process has it open already, and can only once",
    errno.ENXIO: "there is no snapshot of the kernel to be had (the server's log says"
    " why): try again",
    errno.ENOTCONN: "its server has died: start ksymsfs again, as root",
    errno.ENOMEM: "the server has no memory for a snapshot",
    errno.EIO: "its server has failed: its log says why",
}


def advice(error: OSError, platform: str = sys.platform) -> str:
    """What to do about *error*, if it is one of opening the device; "" if not."""
    path = str(error.filename or "")
    if path != "/dev/ksyms" and not os.path.islink(path):
        return ""
    if error.errno != errno.ENOENT:
        return _ADVICE.get(error.errno or 0, "")
    start = (
        "kldload ksyms" if platform.startswith("freebsd") else "ksymsfs /run/ksymsfs"
    )
    return f"nothing serves it: run {start} as root, {_OR_NAME}"
