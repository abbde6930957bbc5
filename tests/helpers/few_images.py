"""Digits cut short, which most tests train on: they make many runs, and look at no score."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import numpy as np

from common import datasets

TRAIN, TEST = 120, 24
_load = datasets.load


@functools.cache
def _all_digits(*args, **kwargs) -> datasets.Data:
    return _load("Digits", *args, **kwargs)


@functools.cache
def _few_digits(test: int, *args, **kwargs) -> datasets.Data:
    data = _all_digits(*args, **kwargs)
    return replace(data, train=data.train.subset(np.arange(TRAIN)), test=data.test.subset(np.arange(test)))


@contextlib.contextmanager
def _digits_from(read: Callable) -> Iterator[None]:
    def load(name, *args, **kwargs):
        return read(*args, **kwargs) if name == "Digits" else _load(name, *args, **kwargs)

    with mock.patch.object(datasets, "load", load):
        yield


def few_images(test: int = TEST):
    """Within, Digits has its first images alone, and is read once. Its fingerprints are those of the whole.

    Args:
        test: how many test images. They are a single batch, unless they are more than 64.
    """
    return _digits_from(functools.partial(_few_digits, test))


def all_images():
    """Within, Digits is whole, also where `few_images` is in force. It is read once."""
    return _digits_from(_all_digits)
