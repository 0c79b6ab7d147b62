"""What belongs to the process, and not to one of its threads: one thread at a time may use it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Held wherever something of the process is changed for a while, or would notice that it is: torch's random numbers and
#: default dtype, the functions that `from_pretrained` replaces, warning filters. A thread takes it for one pass, not
#: for a search. Callbacks of the user's are called without it.
LOCK = threading.RLock()

if hasattr(os, "register_at_fork"):
    # A forked process has only the thread that forked: nobody else could give the lock back there.
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


@contextmanager
def no_warnings() -> Iterator[None]:
    """Inside, nothing is warned of. Without the lock two threads could leave the filters of one of them for good."""
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
