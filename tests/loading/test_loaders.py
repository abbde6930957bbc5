"""The loader law: a training batch is a function of (seed, stream, step) alone."""

import contextlib
import itertools
import random
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from common import datasets
from common.datasets.images import ImageSet
from common.errors import UserError
from common.loading import augment, loaders
from common.loading.loaders import TestLoader, TrainLoader
from common.system import seeding

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CPU = torch.device("cpu")
POLICY = augment.policy("rand-m10-n2-mstd2", MEAN, cutout=0)
WEAK, STRONG, TEST = augment.transforms(datasets.SPECS["Digits"], "native", "native", 32, POLICY)


def image_set(number: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, size=(number, 32, 32, 3), dtype=np.uint8)
    return ImageSet(pixels, np.arange(number) % 5)


def options(workers: int = 0, cache: int = 0) -> dict:
    return {"workers": workers, "cache": cache, "normalizer": augment.Normalizer(MEAN, STD), "device": CPU}


def train_loader(number=23, batch_size=4, transforms=(WEAK, STRONG), stream="unlabeled", seed=0, workers=0):
    return TrainLoader(image_set(number), list(transforms), batch_size, stream, seed, **options(workers))


def take(loader: TrainLoader, steps: int, start: int = 0) -> list:
    return list(itertools.islice(loader.batches(start), steps))


def assert_equal_batches(a: list, b: list) -> None:
    for x, y in zip(a, b, strict=True):
        assert all(map(torch.equal, x.views, y.views))
        assert torch.equal(x.labels, y.labels)
        assert torch.equal(x.indices, y.indices)


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")


@pytest.fixture(scope="module")
def stream():
    """The first twelve batches without workers; a pass has five."""
    return take(train_loader(), 12)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_neither_workers_nor_the_start_change_a_bit(stream, workers, start):
    assert_equal_batches(take(train_loader(workers=workers), 12 - start, start), stream[start:])


def test_a_batch_is_normalised_views_labels_and_indices(stream):
    batch, images = stream[0], image_set(23)
    assert [v.shape for v in batch.views] == [(4, 3, 32, 32)] * 2
    assert all(v.dtype == torch.float32 for v in batch.views)
    assert np.array_equal(batch.labels, images.labels[batch.indices])
    exact = take(train_loader(transforms=[TEST]), 1)[0]
    to_tensor = Compose([ToTensor(), Normalize(MEAN, STD)])
    assert torch.equal(exact.views[0], torch.stack([to_tensor(images.load(i)) for i in exact.indices.tolist()]))


@pytest.mark.parametrize(("number", "batch_size"), [(23, 4), (24, 4), (7, 4), (4, 4)])
def test_a_pass_is_a_permutation_cut_into_full_batches(number, batch_size):
    per_pass = number // batch_size
    batches = take(train_loader(number, batch_size, [TEST]), 3 * per_pass)
    passes = [batches[i : i + per_pass] for i in range(0, len(batches), per_pass)]
    orders = [torch.cat([batch.indices for batch in one]).tolist() for one in passes]
    for order in orders:
        assert len(order) == len(set(order)) == per_pass * batch_size  # nothing twice: no batch straddles passes
    assert len({tuple(order) for order in orders}) == 3  # and each pass has an order of its own


def test_what_a_pass_drops_is_another_passs():
    batches = take(train_loader(7, 4, [TEST]), 20)
    assert set(torch.cat([b.indices for b in batches]).tolist()) == set(range(7))


def test_a_set_smaller_than_its_batch_is_the_batch(log):
    batches = take(train_loader(number=3, batch_size=8), 2)
    assert [sorted(b.indices.tolist()) for b in batches] == [[0, 1, 2]] * 2
    assert len(log.messages) == 1
    assert "the unlabeled set has 3 images, fewer than a batch of 8" in log.messages[0]


def test_a_set_as_large_as_its_batch_says_nothing(log):
    train_loader(number=8, batch_size=8)
    assert not log.messages


@pytest.mark.parametrize(
    ("number", "batch_size", "reason"), [(0, 4, "set is empty"), (1, 4, "one image"), (8, 1, "one image")]
)
def test_sets_that_cannot_be_trained_on_are_refused(number, batch_size, reason):
    with pytest.raises(UserError, match=f"unlabeled .*{reason}"):
        train_loader(number, batch_size)


def generators() -> tuple:
    return random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2:], torch.get_rng_state()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_main_processs_generators_are_left_alone(workers):
    before = generators()
    train = train_loader(workers=workers)
    train.sample(4)
    take(train, 3)
    list(TestLoader(image_set(5), TEST, **options(workers)))
    after = generators()
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_main_processs_generators_do_not_matter(stream, workers):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert_equal_batches(take(train_loader(workers=workers), 2), stream[:2])


def test_draws_differ_by_view_image_step_seed_and_stream():
    """One image throughout, so that only the draws can differ."""
    same = ImageSet(np.repeat(image_set(1).images, 4, axis=0), np.zeros(4))

    def views(stream="unlabeled", seed=0, step=0):
        loader = TrainLoader(same, [WEAK, WEAK], 4, stream, seed, **options())
        return take(loader, 1, step)[0].views

    first, second = views()
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    for other in (views(seed=1), views(step=1), views(stream="labeled")):
        assert not torch.equal(first, other[0])


def test_an_image_is_never_drawn_the_same_way_again():
    """Two equal images, in every place of the batch many times over."""
    same = ImageSet(np.repeat(image_set(1).images, 2, axis=0), np.zeros(2))
    crop, _, _ = augment.transforms(datasets.SPECS["Digits"], "default", "default", 32, POLICY)
    batches = take(TrainLoader(same, [crop, crop], 2, "unlabeled", 0, **options()), 10)
    views = [view.numpy().tobytes() for batch in batches for pair in batch.views for view in pair]
    assert len(set(views)) == len(views) == 40


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": "labeled"}], ids=lambda c: next(iter(c)))
def test_permutations_differ_by_seed_and_stream(stream, change):
    assert any(
        not torch.equal(a.indices, b.indices) for a, b in zip(stream, take(train_loader(**change), 12), strict=True)
    )


@pytest.fixture
def with_a_corrupt_image(tmp_path):
    """Two good files and one that ends half-way; (set, path of the bad one)."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, image_set(3).images, strict=True):
        Image.fromarray(pixels).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    return ImageSet(paths, [0, 1, 2]), paths[1]


def error_of(batches) -> str:
    """Without the traceback, which holds the loader: it should end here, not when garbage is collected."""
    try:
        next(batches)
    except UserError as error:
        return str(error.with_traceback(None))
    pytest.fail("the image was read")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_corrupt_image_is_named(with_a_corrupt_image, workers, kind):
    images, bad = with_a_corrupt_image
    if kind == "train":
        batches = TrainLoader(images, [WEAK], 3, "labeled", 0, **options(workers)).batches(0)
    else:
        batches = iter(TestLoader(images, TEST, **options(workers)))
    message = error_of(batches)
    assert f"image '{bad}' cannot be read" in message
    assert message.endswith("--check DATASET lists all, with --labeled-list FILE if there is one)")
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_whatever_is_no_image_is_a_user_error(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.png"):
        ImageSet([path], [0]).load(0)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png' is missing"):
        ImageSet([tmp_path / "gone.png"], [0]).load(0)


@pytest.fixture
def photographs(tmp_path) -> ImageSet:
    """Twelve files; decoded, they take 12 x 4 x 600 x 100 bytes, 2.7 MiB."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(12, 100, 600, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.jpg" for i in range(12)]
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    return ImageSet(paths, np.arange(12))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("cache", "kept"), [(0, False), (2, False), (3, True)])
def test_files_are_decoded_once_where_they_fit(photographs, workers, cache, kept):
    views = augment.transforms(datasets.SPECS["ImageFolder"], "default", "default", 32, POLICY)
    expected = take(TrainLoader(photographs, views[:2], 4, "labeled", 0, **options()), 7)
    cache *= 1 if loaders.LINUX else 1 + workers
    loader = TrainLoader(photographs, views[:2], 4, "labeled", 0, **options(workers, cache))
    batches = loader.batches(0)
    first = next(batches)
    if kept:
        for path in photographs.images:
            path.unlink()
    assert len(loader.views.decoded) == (12 if kept else 0)
    assert_equal_batches([first, *itertools.islice(batches, 6)], expected)


@pytest.mark.parametrize(("workers", "kept"), [(0, True), (2, False)])
def test_where_workers_are_not_forked_the_cache_is_shared_among_their_copies(photographs, monkeypatch, workers, kept):
    monkeypatch.setattr(loaders, "LINUX", False)
    monkeypatch.setattr(loaders, "_data_loader", lambda *args: [])
    loader = TrainLoader(photographs, [WEAK], 4, "labeled", 0, **options(workers, cache=3))
    assert not list(loader.batches(0))
    assert bool(loader.views.decoded) == kept


def test_a_corrupt_file_among_those_to_be_kept_is_named_when_it_is_drawn(with_a_corrupt_image):
    images, bad = with_a_corrupt_image
    batches = TrainLoader(images, [WEAK], 3, "labeled", 0, **options(cache=1)).batches(0)
    assert f"image '{bad}' cannot be read" in error_of(batches)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("cache", "kept"), [(0, False), (1, False), (2, True)])
def test_the_test_set_is_read_once_where_it_fits(workers, cache, kept):
    """342 images of 3,072 bytes are a little more than a MiB."""
    images = image_set(342)
    loader = TestLoader(images, TEST, **options(workers, cache))
    first = list(loader)
    assert (loader.loader is None) is kept  # and with it its workers
    if kept:
        images.images[:] = 0
    for (a, labels_a), (b, labels_b) in zip(first, loader, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(labels_a, labels_b)


def test_a_pass_over_the_test_set_that_was_left_is_not_kept():
    loader = TestLoader(image_set(10), TEST, batch_size=4, **options(cache=1))
    next(iter(loader))
    assert not loader.kept
    assert len(list(loader)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_the_test_loader_keeps_the_order_and_the_rest(workers):
    images = image_set(10)
    loader = TestLoader(images, TEST, batch_size=4, **options(workers))
    for _ in range(2):  # it can be repeated
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        assert np.array_equal(torch.cat([labels for _, labels in batches]), images.labels)
    to_tensor = Compose([ToTensor(), Normalize(MEAN, STD)])
    expected = torch.stack([to_tensor(images.load(i)) for i in range(10)])
    assert torch.equal(torch.cat([view for view, _ in batches]), expected)


def test_the_sample_is_what_the_network_sees_first(stream):
    sample, labels = train_loader().sample(2)
    assert labels == stream[0].labels[:2].tolist()
    assert list(sample) == ["unlabeled 1: weak", "unlabeled 2: strong"]
    normalizer = augment.Normalizer(MEAN, STD)
    for view, seen in zip(sample.values(), stream[0].views, strict=True):
        assert view.dtype == torch.uint8
        assert torch.equal(normalizer(view), seen[:2])


@pytest.mark.parametrize("statistics", [(MEAN, STD), ([0.3092] * 3, [0.349] * 3), ([0.4912, 0.4824, 0.4467], STD)])
def test_normalizer_is_torchvisions_to_the_last_bit(statistics):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = Compose([ToTensor(), Normalize(*statistics)])(Image.fromarray(levels))
    assert torch.equal(augment.Normalizer(*statistics)(torch.tensor(levels).permute(2, 0, 1)[None])[0], expected)


def test_the_copy_one_ahead_is_in_order_and_waited_for(monkeypatch, stream):
    """With streams that note what is asked of them; the next test has real ones, where there is a GPU."""
    notes = []

    class Stream(str):
        def wait_stream(self, other):
            notes.append(f"{self} waits for {other}")

    @contextlib.contextmanager
    def entered(stream):
        notes.append(f"{stream} copies")
        yield
        notes.append(f"{stream} is left")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: notes.append(f"{stream} keeps a tensor"))
    batches = loaders._one_ahead(iter(stream), CPU)
    copying, handing_over = ["side copies", "side is left"], ["main waits for side", *["main keeps a tensor"] * 4]
    expected = ["side waits for main", *copying]
    for batch in stream[:-1]:
        assert next(batches) is batch
        expected += [*handing_over, *copying]
        assert notes == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_the_gpu_are_those_of_the_cpu(stream, workers):
    """The network's work is long enough for the next copies to overtake it, did they not wait for one another."""
    cuda = options(workers) | {"device": torch.device("cuda"), "normalizer": augment.Normalizer(MEAN, STD)}
    batches = TrainLoader(image_set(23), [WEAK, STRONG], 4, "unlabeled", 0, **cuda).batches(0)
    slow, seen = torch.randn(4000, 4000, device="cuda"), []
    for expected, batch in zip(stream, batches, strict=False):
        for _ in range(10):
            slow = slow @ slow / 4000
        views = tuple(view + 0 * slow[0, 0] for view in batch.views)  # read after the work, not when it is given out
        seen.append((expected, batch._replace(views=views)))
    for expected, batch in seen:
        assert all(torch.equal(a, b.cpu()) for a, b in zip(expected.views, batch.views, strict=True))
        assert torch.equal(expected.labels, batch.labels.cpu())
        assert torch.equal(expected.indices, batch.indices.cpu())


def test_a_stream_is_known_by_the_hash_of_its_name_and_numbers():
    numbers = (3, zlib.crc32(b"labeled"), 2**32 - 1, 0, 1)
    wanted = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    assert seeding.derive(3, "labeled", 2**32 - 1, 0, 1) == wanted


def test_a_seed_draws_these_batches_and_views_on_every_machine(monkeypatch):
    """Written down once, so that neither a new NumPy nor another name of a stream changes a run unnoticed."""
    seeds = []
    monkeypatch.setattr(seeding, "seed_cpu", seeds.append)
    batches = take(train_loader(7, 3, (TEST, TEST), stream="labeled"), 5)
    assert [b.indices.tolist() for b in batches] == [[4, 0, 5], [2, 1, 6], [6, 0, 4], [5, 3, 2], [0, 6, 1]]
    assert seeds[:3] == [17441409552511518765, 10017045486763234226, 16108583508494841369]  # two of the first image
    even = TrainLoader(image_set(7).evenly(), [TEST], 4, "labeled", 0, **options())
    assert [b.indices.tolist() for b in take(even, 3)] == [[6, 2, 0, 4], [3, 1, 2, 5], [4, 3, 6, 2]]
