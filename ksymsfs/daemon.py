"""What a server does once it serves: leave its terminal, or tell systemd. daemon(7)."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

log = logging.getLogger(__name__)


def detach(serve: Callable[[Callable[[], None]], int]) -> int:
    """Run *serve* in the background; return 0 as soon as it says that it is ready.

    *serve* gets the function to call when it is ready, and returns its exit status.
    When it ends before that, its status is returned: its messages have gone to this
    process's standard error. The fork comes first of all, because perf events and
    threads do not survive one.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        status = 1
        try:
            status = serve(lambda: _ready(writer))
        except BaseException:
            log.exception("the server has failed")
        finally:
            # Never back into the caller's code: this is another process now.
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready = pipe.read(1)
    if ready:
        return 0
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def notify() -> None:
    """Tell the service manager, if it waits for that, that this service is ready.

    sd_notify(3): systemd names a socket in $NOTIFY_SOCKET for a unit of Type=notify.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            # An abstract address starts with a null byte, which @ stands for.
            abstract = address.startswith("@")
            manager.connect(f"\0{address[1:]}" if abstract else address)
            manager.send(b"READY=1")


def _ready(writer: int) -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    # The terminal is gone: its hang-up is no reason to end.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.write(writer, b"1")
    os.close(writer)
