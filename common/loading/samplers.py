"""In which order images are drawn, as a function of the seed and the step alone: so a run resumes anywhere.

The samplers give batches of keys (step, position, index): `index` is the image, and the other two seed its view.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from common.datasets.images import ImageSet
from common.system import processes, seeding


class ShuffledBatches(Sampler):
    """The keys (step, position, index) of each step's batch, from step `start` on; or of one process's share."""

    def __init__(
        self, images: ImageSet, batch_size: int, seed: int, stream: str, start: int, share: slice = slice(None)
    ):
        self.images, self.batch_size, self.share = images, batch_size, share
        self.seed, self.stream, self.start = seed, stream, start
        self.permutations: dict[tuple[str | int, ...], tuple[int, np.ndarray]] = {}  # kind -> number and indices

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in itertools.count(self.start):
            yield [(step, position, int(index)) for position, index in enumerate(self.drawn(step))][self.share]

    def drawn(self, step: int) -> np.ndarray:
        """The indices of the images of a step's batch."""
        number, batch = divmod(step, len(self.images) // self.batch_size)
        permutation = self.permutation("permutation", len(self.images), number)
        return permutation[batch * self.batch_size : (batch + 1) * self.batch_size]

    def permutation(self, kind: str, length: int, number: int, *key: int) -> np.ndarray:
        """Permutation `number` of a kind. Only the newest is kept: steps ask for them in order."""
        current, permutation = self.permutations.get((kind, *key), (-1, None))
        if current != number or permutation is None:
            rng = np.random.default_rng(seeding.derive(self.seed, f"{self.stream} {kind}", *key, number))
            permutation = rng.permutation(length)
            self.permutations[kind, *key] = number, permutation
        return permutation


class BalancedBatches(ShuffledBatches):
    """Batches that hold all classes equally often, as nearly as their size allows.

    The draws of all steps form one sequence, in which the classes take turns in a fixed order. So draw n is number
    n // C of its class, which says where it stands in that class's passes without counting. Whenever a batch ends
    together with a round of turns, a new order is drawn. Otherwise the same classes would always share a batch.
    """

    def __init__(self, images: ImageSet, *options: Any):
        super().__init__(images, *options)
        self.classes = [np.flatnonzero(images.labels == c) for c in np.unique(images.labels)]
        self.steps_of_an_order = math.lcm(self.batch_size, len(self.classes)) // self.batch_size

    def drawn(self, step: int) -> np.ndarray:
        order = self.permutation("order of classes", len(self.classes), step // self.steps_of_an_order)
        draws = range(step * self.batch_size, (step + 1) * self.batch_size)
        return np.array([self.nth(order[n % len(order)], n // len(order)) for n in draws])

    def nth(self, c: int, n: int) -> int:
        """The index of the n-th image drawn of class number `c`."""
        images = self.classes[c]
        number, position = divmod(n, len(images))
        return images[self.permutation("class", len(images), number, int(c))[position]]


class SequentialBatches(Sampler):
    """Every index once, in order, as keys (0, index, index). The last batch may be smaller.

    Each of N processes takes every N-th batch. Nothing is padded, so some processes may have one batch less.
    """

    def __init__(self, length: int, batch_size: int):
        self.length, self.batch_size = length, batch_size
        self.starts = range(0, length, batch_size)[processes.rank() :: processes.count()]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for start in self.starts:
            yield [(0, i, i) for i in range(start, min(start + self.batch_size, self.length))]
