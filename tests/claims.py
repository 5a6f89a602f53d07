"""What the scripts of this directory claim: a claim that holds is printed, one that does not ends the script with 1."""

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
