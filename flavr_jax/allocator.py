# SPDX-License-Identifier: Apache-2.0
"""The C library's allocator, told to keep freed memory for the next large array.

XLA on a CPU allocates hundreds of MiB for the intermediate arrays of each call, and frees them at
its end. glibc returns such blocks to Linux at once, which then has to clear each page again in the
next call: 110,000 page faults for a window of 480×848 at 8×, and about an eighth of its time.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_memory"]

# Numbers of glibc's malloc.h (https://man7.org/linux/man-pages/man3/mallopt.3.html).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_memory() -> bool:
    """Let this process keep the memory that it frees; call it before threads are started.

    The process then never becomes smaller. All threads share one heap, because the heaps that glibc
    gives to other threads than the first have at most 64 MiB.

    Returns:
        Whether this was done. It is not done in other C libraries than glibc, nor if the user has
        set an environment variable of glibc's allocator.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # a static program; Windows
        return False
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1}
    done = [library.mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
