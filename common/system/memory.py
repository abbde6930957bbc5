"""Recognise the errors that mean a lack of memory: libraries raise them as several types."""

import errno
import re

import torch

# Of the CPU's allocator, of sizes beyond what a number can hold, of C++, of the system, and of CUDA's libraries.
SHORT = re.compile(
    r"can't allocate memory|not enough memory|size calculation overflowed|bad_alloc|Cannot allocate memory|"
    r"CUDA error: out of memory|ALLOC_FAILED"
)


def shortage(error: BaseException) -> str | None:
    """What ran out, in words, if the error means a lack of memory; otherwise None."""
    if isinstance(error, torch.OutOfMemoryError):
        return ". ".join(str(error).split(". ")[:2])  # the rest is about the allocator
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"
    if isinstance(error, OSError):
        return "not enough memory" if error.errno == errno.ENOMEM else None
    if isinstance(error, RuntimeError) and SHORT.search(str(error)):
        asked = re.search(r"you tried to allocate (\d+) bytes", str(error))
        return f"not enough memory for {int(asked[1]) / 1e9:,.1f} GB" if asked else "not enough memory"
    return None
