"""The source of every random number: named streams, each derived from the run's seed by a hash.

Sums such as `seed + epoch` make the streams of neighbouring seeds overlap; `numpy.random.SeedSequence` does not.
"""

import contextlib
import logging
import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.system import processes
from common.system.devices import sent

logger = logging.getLogger(__name__)


def derive(seed: int, stream: str, *key: int) -> int:
    """A 64-bit seed that depends on all of (seed, stream, key), such as `derive(0, "labeled", step, position, view)`.

    Args:
        seed, key: whole numbers from 0 to 2**32 - 1.
    """
    entropy = np.array((seed, zlib.crc32(stream.encode()), *key), dtype=np.uint32)  # twice as fast as with the tuple
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def seed_cpu(seed: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators: all that a transform draws from.

    `torch.manual_seed` would also reach for CUDA, which takes 170 times as long and has no place in a worker.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int, stream: str, *key: int) -> None:
    """Start a stream in the main process, CUDA's generators included."""
    seed_cpu(derive(seed, stream, *key))
    torch.cuda.manual_seed_all(derive(seed, stream, *key))


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Restore the CPU generators after the block, whatever it draws."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


class SharedRandom(nn.Module):
    """Random numbers that are the same in all processes: for what a method draws once for a whole batch.

    Examples are MixUp's coefficients, permutations, and noise for all images of a batch. The n-th draw depends on
    (seed, stream, n) alone. A checkpoint holds n, so a resumed run draws the same numbers as an uninterrupted one, with
    any number of processes. Every process must make the same draws in the same order. The generators of the main
    process are not used, and nothing waits for the device.

    Args:
        seed: of the run.
        stream: a name that no other stream of the method has.
    """

    on_device: Tensor

    def __init__(self, seed: int, stream: str):
        super().__init__()
        self.seed, self.stream, self.draws = seed, stream, 0
        self.register_buffer("on_device", torch.empty(0), persistent=False)  # moves with the module

    def permutation(self, number: int) -> Tensor:
        """The numbers from 0 to `number - 1` in random order: int64 [number]."""
        return self._sent(self._generator().permutation(number))

    def uniform(self, *shape: int) -> Tensor:
        """Float32 of that shape, from 0 to below 1."""
        return self._sent(self._generator().random(shape, dtype=np.float32))

    def normal(self, *shape: int) -> Tensor:
        """Float32 of that shape, with mean 0 and deviation 1."""
        return self._sent(self._generator().standard_normal(shape, dtype=np.float32))

    def beta(self, alpha: float, *shape: int) -> Tensor:
        """Float32 of that shape, from Beta(alpha, alpha), with alpha above 0."""
        return self._sent(np.asarray(self._generator().beta(alpha, alpha, shape), dtype=np.float32))

    def get_extra_state(self) -> int:
        return self.draws

    def set_extra_state(self, state: int) -> None:
        self.draws = int(state)

    def _generator(self) -> np.random.Generator:
        self.draws += 1
        return np.random.default_rng(derive(self.seed, self.stream, self.draws))

    def _sent(self, numbers: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(numbers), self.on_device.device)


class Generators:
    """The main process's generators, for a checkpoint: Python's, NumPy's, torch's, and the CUDA device's.

    With several processes, the first one's state is stored as if it were alone, and the others' under `others`.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def state_dict(self) -> dict:
        """Tensors and plain numbers, so that they load with `weights_only=True`."""
        first, *others = processes.gather_objects(self._own_state())
        return first | ({"others": others} if others else {})

    def load_state_dict(self, state: dict) -> None:
        """Restore the states. If the number of processes has changed, derive a new stream for each process."""
        states = [state, *state.get("others", [])]
        if len(states) == processes.count():
            self._load_own_state(states[processes.rank()])
            return
        logger.info(
            f"the checkpoint is of {len(states)} processes, and these are {processes.count()}: "
            "the same images and views follow, but dropout draws other numbers from here on"
        )
        drawn_so_far = zlib.crc32(state["torch"].numpy().tobytes() + state["cuda"].cpu().numpy().tobytes())
        seed_all(drawn_so_far, "training", processes.rank())

    def _own_state(self) -> dict:
        version, words, gauss = random.getstate()
        numpy_state: Any = np.random.get_state()
        _, keys, position, has_gauss, cached = numpy_state
        return {
            "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
            "numpy": {
                "keys": torch.from_numpy(keys.astype(np.int64)),
                "rest": [int(position), int(has_gauss), float(cached)],
            },
            "torch": torch.get_rng_state(),
            # Other devices are not asked for their state: that alone would initialise them.
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.empty(0),
        }

    def _load_own_state(self, state: dict) -> None:
        """A CUDA state is restored on the CUDA device of this run, even if its number is another one."""
        python, numpy = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        np.random.set_state(("MT19937", numpy["keys"].numpy().astype(np.uint32), *numpy["rest"]))
        torch.set_rng_state(state["torch"].cpu())
        if self.device.type == "cuda" and len(state["cuda"]):
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)
