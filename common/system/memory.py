"""Recognise the errors that mean a lack of memory. Libraries raise them as several types."""

import errno
import re

import torch

# From PyTorch's CPU allocator, sizes that overflow, C++, the system, and CUDA's libraries.
SHORT = re.compile(
    r"can't allocate memory|not enough memory|size calculation overflowed|bad_alloc|Cannot allocate memory|"
    r"CUDA error: out of memory|ALLOC_FAILED"
)


def shortage(error: BaseException) -> str | None:
    """A description of what ran out, if the error means a lack of memory; otherwise None."""
    if isinstance(error, torch.OutOfMemoryError):
        return ". ".join(str(error).split(". ")[:2])  # the rest is about the allocator's settings
    if isinstance(error, MemoryError):
        return str(error) or "not enough memory"
    if isinstance(error, OSError):
        return "not enough memory" if error.errno == errno.ENOMEM else None
    if isinstance(error, RuntimeError) and SHORT.search(str(error)):
        asked = re.search(r"you tried to allocate (\d+) bytes", str(error))
        return f"not enough memory for {int(asked[1]) / 1e9:,.1f} GB" if asked else "not enough memory"
    return None
