"""Environment variables that tune glibc's memory allocator for training on a CPU. Set before the process starts.

A training step frees and reallocates the same few hundred megabytes. By default glibc returns large blocks to the kernel,
and every step pays for page faults. These settings keep the blocks and use huge pages. Measured by bench/models.py. Other
C libraries ignore the variable.
"""

from __future__ import annotations

_RETAINED_BYTES = 2**30  # blocks below this size are reused, not returned to the kernel

ENVIRONMENT = {
    "GLIBC_TUNABLES": ":".join(
        (
            "glibc.malloc.hugetlb=1",  # madvise: transparent huge pages where the kernel offers them
            f"glibc.malloc.trim_threshold={_RETAINED_BYTES}",
            f"glibc.malloc.mmap_threshold={_RETAINED_BYTES}",
        )
    )
}
