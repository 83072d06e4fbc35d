"""The system's locks on open files and folders: they end with the process, however that ends."""

from __future__ import annotations

import errno
import sys


def take_lock(handle: int, *, shared: bool = False) -> bool:
    """Take the lock of what is open, if that can be done at once; True also where there are no locks.

    That is so on Windows, and on some network drives. shared: together with others that take it so.
    """
    if sys.platform == "win32":  # no flock there
        return True
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True
