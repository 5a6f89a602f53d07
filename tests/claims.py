"""What the scripts of this directory have in common.

A claim that holds is printed, one that does not ends the script with 1.
"""

import contextlib
import socket
import time


def check(what, holds, found=None):
    if not holds:
        raise SystemExit(f"NOT SO: {what}: {found!r}")
    print(f"  {what}", flush=True)


def eventually(what, is_so, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"NOT SO: {what}")
        time.sleep(0.1)
    check(what, True)


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, timeout_s):
    """Waits until a program listens there: a process that was started does not listen yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"no response from port {port}") from None
            time.sleep(0.05)
