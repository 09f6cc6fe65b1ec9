"""Child processes that end with their parent: after its ``kill -9`` none of them keeps a port or a lease."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux's option to receive a signal when the parent dies (prctl(2))."""


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Make the kernel send a signal to this process as soon as its parent dies. Without effect outside of Linux.

    Args:
        parent: the parent's process id, read before the fork.
        number: the signal.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # the parent died before the call above
        os.kill(os.getpid(), number)
