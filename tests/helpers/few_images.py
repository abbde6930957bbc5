"""A dataset cut short, for tests that make many runs and look at no score."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import numpy as np

from common import datasets

TRAIN, TEST = 120, 24


@contextlib.contextmanager
def few_images() -> Iterator[None]:
    """Within, every dataset has its first images alone, and is read once. Its fingerprints stay as they were."""
    load = datasets.load

    @functools.cache
    def load_few(*args, **kwargs):
        data = load(*args, **kwargs)
        return replace(data, train=data.train.subset(np.arange(TRAIN)), test=data.test.subset(np.arange(TEST)))

    with mock.patch.object(datasets, "load", load_few):
        yield
