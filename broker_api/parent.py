"""Children that end with their parent: no process is left that holds a port, or works, after a ``kill -9``."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux's name for "send me this signal when my parent dies" (prctl(2))."""


def end_with(parent: int, number: signal.Signals) -> None:
    """Let the kernel send the signal to this process, a child just forked, when its parent dies; on Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), number)
