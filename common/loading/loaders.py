"""Endless training batches and repeatable test batches.

The law: a training batch depends on (seed, stream, step) alone. Neither the number of workers nor an interruption
changes a byte, and nothing is drawn from the main process's generators. Several processes divide the batch that one
process would have.

docs/performance.md has measurements of what makes it fast. Workers live as long as their loader, and send one uint8
tensor per batch. Photographs are decoded once if they fit into memory, and test images are resized once. On CUDA, the
next batch is copied while the network trains on the current one.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.datasets.images import UNREADABLE, ImageSet
from common.errors import UserError
from common.loading.augment import Transform
from common.loading.samplers import BalancedBatches, SequentialBatches, ShuffledBatches
from common.loading.workers import LINUX, Packing, Reader, begin
from common.system import processes, seeding
from common.system.devices import sent

logger = logging.getLogger(__name__)
Sample = tuple[list[Tensor], int, int]  # the views, the label and the index of an image
Collated = tuple[Tensor, np.ndarray]
warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")  # -j is the user's decision


class Batch(NamedTuple):
    """A training batch on the device.

    Attributes:
        views: one float32 [B, 3, H, W] per transform, normalised.
        labels: int64 [B]; of unlabeled images for the metrics only, and -1 if unknown.
        indices: int64 [B], each image's position in the loader's set. They are distinct within a batch, so a method may
            write one row for each: `bank[indices] = ...`. (They may repeat in balanced labeled batches.)
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor


class TrainLoader:
    """An endless stream of batches. Each pass is a new permutation, cut into full batches; the rest is dropped.

    A batch never spans two passes, so its indices are distinct. If the set is smaller than a batch, every batch is the
    whole set.

    From `images.evenly()`, a batch holds all classes equally often. If the batch size is not divisible by their number,
    some classes have one image more, and they take turns. Each class goes through its images in its own passes, so a
    small class repeats its images more often.

    Args:
        images: the set to draw from.
        transforms: one per view, all to one size. The views of an image are independent draws.
        batch_size: images per batch of the whole run.
        stream: name of the set (`labeled`, `unlabeled`), for its random streams and messages.
        seed: the run's.
        workers: number of processes that make the views. They live as long as the iterator of `batches`.
        cache: MiB for all processes of a machine. If the decoded images fit, the files are decoded once, before the
            workers start.
        normalizer: uint8 -> float32, applied on the device.
        device: where batches go.

    Attributes:
        batch_size: the argument, or the size of the set if that is smaller. Scripts size their queues and banks by it.

    Raises:
        UserError: the set is empty; a batch would hold one image; or it cannot be divided among the run's processes.
    """

    def __init__(
        self,
        images: ImageSet,
        transforms: Sequence[Transform],
        batch_size: int,
        stream: str,
        seed: int,
        *,
        workers: int,
        cache: int = 0,
        normalizer: nn.Module,
        device: torch.device,
    ):
        if len(images) == 0:
            raise UserError(
                f"the {stream} set is empty: ask for fewer --num-samples-per-class, or for all, or add images"
            )
        if min(batch_size, len(images)) == 1:
            raise UserError(f"a {stream} batch of one image cannot pass BatchNorm: two images or more are needed")
        if len(images) < batch_size:
            every = f"has {len(images)}, evenly over the classes" if images.balanced else "is the whole set"
            logger.warning(
                f"the {stream} set has {len(images)} images, fewer than a batch of {batch_size}: every batch {every}"
            )
        self.batch_size = min(batch_size, len(images))
        _check_divisible(self.batch_size, len(images), stream)
        self.share = processes.share(self.batch_size)
        self.stream, self.seed, self.workers, self.cache = stream, seed, workers, cache
        self.views = _Views(images, transforms, seed, stream)
        self.normalizer, self.device = normalizer.to(device), device

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of steps `step`, `step + 1`, ... without end.

        Raises:
            UserError: an image cannot be read.
        """
        keys = self._keys(step, self.share)
        copies = 1 if LINUX else 1 + self.workers  # workers that are not forked get a copy of the decoded images each
        self.views.keep_decoded(self.cache * 2**20 // processes.local_count() // copies)
        batches = map(self._on_device, _read(_data_loader(self.views, keys, self.workers, self.device)))
        yield from _one_ahead(batches, self.device) if self.device.type == "cuda" else batches

    def _keys(self, step: int, share: slice = slice(None)) -> "ShuffledBatches":
        Keys, images = (BalancedBatches if self.views.images.balanced else ShuffledBatches), self.views.images
        return Keys(images, self.batch_size, self.seed, self.stream, step, share)

    def _on_device(self, batch: tuple[Tensor, np.ndarray]) -> Batch:
        views, facts = (sent(torch.as_tensor(part), self.device) for part in batch)
        return Batch(tuple(map(self.normalizer, views)), *facts)

    def sample(self, number: int) -> tuple[dict[str, Tensor], list[int]]:
        """The first views of the run, for people to look at: title -> uint8 [number, 3, H, W]; and the labels."""
        keys = next(iter(self._keys(0)))[:number]
        with seeding.preserved():
            views, (labels, _) = _or_raise(_collate([self.views[key] for key in keys]))
        titles = [f"{self.stream} {i + 1}: {transform.name}" for i, transform in enumerate(self.views.transforms)]
        return dict(zip(titles, views, strict=True)), labels.tolist()


class TestLoader:
    """A set in order, any number of times: batches of images float32 [B, 3, H, W] and labels int64 [B], on the device.

    Args:
        images: the test set, or any other set.
        transform: makes the only view.
        workers: number of processes that make the views. They end once the whole set is in memory.
        cache: MiB for all processes of a machine. If the uint8 views fit, the first pass keeps them.
        normalizer: uint8 -> float32, applied on the device.
        device: where batches go.
        batch_size: images per batch.
        seed, stream: of a random transform. Every pass has the same views.

    Attributes:
        number: of images in the set, those of other processes included.

    Raises:
        UserError: an image cannot be read (while iterating).
    """

    __test__ = False  # pytest would collect it by its name

    def __init__(
        self,
        images: ImageSet,
        transform: Transform,
        *,
        workers: int,
        cache: int = 0,
        normalizer: nn.Module,
        device: torch.device,
        batch_size: int = 64,
        seed: int = 0,
        stream: str = "test",
    ):
        self.normalizer, self.device = normalizer.to(device), device
        self.options: dict[str, Any] = {
            "workers": workers,
            "cache": cache,
            "normalizer": self.normalizer,
            "device": device,
            "batch_size": batch_size,
            "seed": seed,
            "stream": stream,
        }
        self.transform = transform
        self.number, self.room = len(images), cache * 2**20 // processes.local_count() * processes.count()
        views = _Views(images, [transform], seed, stream)
        self.keys = SequentialBatches(len(images), batch_size)
        self.loader: DataLoader | Reader | None = _data_loader(views, self.keys, workers, device)
        self.kept: list[tuple[Tensor, Tensor]] = []  # the uint8 views and labels of the whole set, or nothing

    def of(self, images: ImageSet) -> "TestLoader":
        """The same loader for other images."""
        return TestLoader(images, self.transform, **self.options)

    @property
    def order(self) -> Tensor:
        """int64 [N]: each image's index in the set, in the order of the batches."""
        return torch.tensor([index for batch in self.keys for _, _, index in batch], dtype=torch.int64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.kept or (self._read_and_keep() if self.number else []):
            views, labels = (sent(tensor, self.device) for tensor in batch)
            yield self.normalizer(views), labels

    def _read_and_keep(self) -> Iterator[tuple[Tensor, Tensor]]:
        kept = []
        for (views,), (numbers, _) in _read(self.loader):  # type: ignore[arg-type]  # nothing is kept yet
            labels = torch.from_numpy(numbers)
            yield views, labels
            if self.number * views[0].nbytes <= self.room:
                # A clone: a shared tensor keeps a file open, and a pinned one takes a power of two in bytes.
                kept.append((views.clone(), labels))
        if kept:
            self.kept, self.loader = kept, None  # ends the workers


class FileBatch(NamedTuple):
    """Images of a `FileLoader`.

    Attributes:
        images: float32 [B, 3, H, W] on the device, normalised; None if no image of the batch could be read.
        indices: int64 [B], the images' positions in the set.
        errors: index -> message, for images of the batch that cannot be read.
    """

    images: Tensor | None
    indices: np.ndarray
    errors: dict[int, str]


class FileLoader:
    """A set of images in order, in the batches of a `TestLoader`. Unreadable images are reported and left out.

    Args:
        images: the set; its labels are not used.
        transform, workers, normalizer, device, batch_size: see `TestLoader`.
    """

    def __init__(
        self,
        images: ImageSet,
        transform: Transform,
        *,
        workers: int,
        normalizer: nn.Module,
        device: torch.device,
        batch_size: int = 64,
    ):
        self.normalizer, self.device = normalizer.to(device), device
        views = _Views(images, [transform], seed=0, stream="test")
        self.batches = SequentialBatches(len(images), batch_size)
        self.loader = _data_loader(views, self.batches, min(workers, len(self.batches)), device, _collate_readable)

    def __iter__(self) -> Iterator[FileBatch]:
        for keys, (readable, broken) in zip(self.batches, _read(self.loader), strict=True):
            errors = {keys[position][-1]: error for position, error in broken.items()}
            if readable is None:
                yield FileBatch(None, np.empty(0, dtype=np.int64), errors)
            else:
                (views,), (_, indices) = readable
                yield FileBatch(self.normalizer(sent(views, self.device)), indices, errors)


def _check_divisible(batch_size: int, most: int, stream: str) -> None:
    count = processes.count()
    below = batch_size - batch_size % count
    if below != batch_size:
        near = " or ".join(str(number) for number in (below, below + count) if 0 < number <= most)
        raise UserError(
            f"{stream} batches of {batch_size} images cannot be divided among {count} processes: "
            f"take {f'{near}, or ' if near else ''}fewer processes"
        )


def _data_loader(
    views: "_Views", keys: Sampler, workers: int, device: torch.device, collate: Callable[[list], Any] | None = None
) -> "DataLoader | Reader":
    collate = collate or _collate
    loader = DataLoader(
        views,
        batch_sampler=keys,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=Packing(collate) if workers > 0 else collate,
        worker_init_fn=begin,
        multiprocessing_context="fork" if LINUX and workers > 0 else None,  # forked workers share the decoded images
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # otherwise each iterator would draw from the main process's generator
    )
    return Reader(loader) if workers > 0 else loader


def _read(loader: "DataLoader | Reader") -> Iterator:
    """The batches that the loader's collate function makes. A `UserError` that it returns is raised here."""
    iterator = iter(loader)
    # Without workers, the views are made in this process, and would move its generators.
    guard = contextlib.nullcontext if isinstance(loader, Reader) else seeding.preserved
    try:
        while True:
            with guard():
                batch = next(iterator, None)
            if batch is None:
                return
            yield _or_raise(batch)
    finally:
        del iterator, loader  # ends the workers now, not only when an error's traceback is freed


def _one_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy and normalise the next batch on a second CUDA stream, while the network trains on the current batch."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # until the normalizer's table is there

    def following() -> Batch:
        with torch.cuda.stream(side):
            return next(batches)

    batch = following()
    while True:
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for tensor in (*batch.views, batch.labels, batch.indices):
            tensor.record_stream(current)  # or the side stream would reuse its memory before the network is done
        ahead = following()
        yield batch
        batch = ahead


class _Views(Dataset):
    """(step, position, index) -> (views, label, index). For an unreadable image, a UserError is returned."""

    def __init__(self, images: ImageSet, transforms: Sequence[Transform], seed: int, stream: str):
        self.images, self.transforms, self.seed, self.stream = images, transforms, seed, stream
        self.decoded: list[Image.Image] = []  # all images, or none

    def keep_decoded(self, room: int) -> None:
        """Decode all files now, if they fit into `room` bytes. Forked workers share that memory."""
        if self.decoded or isinstance(self.images.images, np.ndarray) or not _fit(self.images.images, room):
            return
        with contextlib.suppress(UserError), ThreadPoolExecutor() as pool:  # a broken file is reported once it is drawn
            self.decoded = list(pool.map(self.images.load, range(len(self.images))))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int, int]) -> Sample | UserError:
        step, position, index = key
        try:
            image = self.decoded[index] if self.decoded else self.images.load(index)
        except UserError as error:
            return error  # raised in a worker, it would arrive with the worker's traceback in its message
        views = []
        for number, transform in enumerate(self.transforms):
            seeding.seed_cpu(seeding.derive(self.seed, self.stream, step, position, number))
            views.append(transform(image))
        return views, self.images.labels[index], index


def _collate(samples: Sequence[Sample | UserError]) -> Collated | UserError:
    """Samples -> uint8 views [V, B, 3, H, W], and labels and indices as int64 [2, B]; or the first error among them.

    All views are one tensor, because handing a tensor to another process takes longer than making a small view.
    """
    readable = []
    for sample in samples:
        if isinstance(sample, UserError):
            lists_all = (
                "python -m common.datasets ROOT --check DATASET lists all, with --labeled-list FILE if there is one"
            )
            return UserError(f"{sample} ({lists_all})")
        readable.append(sample)
    rows, labels, indices = zip(*readable, strict=True)
    images = [view.movedim(0, -1) for column in zip(*rows, strict=True) for view in column]  # HWC, as in memory
    views = default_collate(images).unflatten(0, (-1, len(samples))).movedim(-1, 2)
    return views, np.array([labels, indices], dtype=np.int64)


def _collate_readable(samples: Sequence[Sample | UserError]) -> tuple[Collated | UserError | None, dict[int, str]]:
    """`_collate` of the readable samples, and for the others: position in the batch -> message."""
    errors = {position: str(sample) for position, sample in enumerate(samples) if isinstance(sample, UserError)}
    readable = [sample for sample in samples if not isinstance(sample, UserError)]
    return _collate(readable) if readable else None, errors


def _or_raise(batch: Any) -> Any:
    if isinstance(batch, UserError):
        raise UserError(str(batch))  # a new error: the traceback of the original would keep the workers alive
    return batch


def _fit(paths: Sequence[str | Path], room: int) -> bool:
    """Whether the decoded images fit into `room` bytes. Only their headers are read."""
    try:
        for path in paths:
            with Image.open(path) as image:
                room -= 4 * image.width * image.height  # Pillow stores RGB in four bytes
            if room < 0:
                return False
    except UNREADABLE:
        return False
    return True
