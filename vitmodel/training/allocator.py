"""How the C library should hand out memory to a process that trains on CPUs: environment, set before it starts.

A training step frees and takes again the same few hundred megabytes. glibc gives large blocks back to the kernel at
once, so that every step pays for fresh pages; kept, and asked for in huge pages, they cost nothing. Measured by
bench/models.py. Other C libraries ignore the variable.
"""

from __future__ import annotations

_KEPT_BYTES = 2**30  # blocks below this size are kept for the next step

ENVIRONMENT = {
    "GLIBC_TUNABLES": ":".join(
        (
            "glibc.malloc.hugetlb=1",  # madvise: transparent huge pages where the kernel offers them
            f"glibc.malloc.trim_threshold={_KEPT_BYTES}",
            f"glibc.malloc.mmap_threshold={_KEPT_BYTES}",
        )
    )
}
