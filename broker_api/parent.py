"""Children that end with their parent, so that none keeps a port or a lease after a ``kill -9`` of the parent."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux's option to receive a signal when the parent dies (prctl(2))."""


def end_with(parent: int, number: signal.Signals) -> None:
    """Ask the kernel to send the signal to this process, a new child, when its parent dies; only on Linux."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), number)
