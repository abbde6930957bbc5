"""The views, against Pillow called directly and against timm's own operations."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, RandomResizedCrop

from common import datasets
from common.errors import UserError
from common.loading import augment, classic
from common.system import seeding

MEAN, FILL = [0.485, 0.456, 0.406], [124, 116, 104]
CONFIG = "rand-m10-n2-mstd2"


def photograph(width=300, height=200) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def transforms(name="ImageFolder", train="default", val="default", size=224):
    return augment.transforms(datasets.SPECS[name], train, val, size, augment.policy(CONFIG, MEAN, 0))


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("name", "train", "val", "size", "image"),
    [
        ("ImageFolder", "default", "default", 224, photograph()),
        ("ImageFolder", "default", "default", 96, photograph(40, 90)),
        ("CIFAR10", "cifar", "cifar", 224, photograph(32, 32)),
        ("CIFAR10", "cifar", "default", 64, photograph(32, 32)),
        ("Digits", "default", "cifar", 64, photograph(32, 32)),
        ("Digits", "native", "native", 32, photograph(32, 32)),
    ],
)
def test_all_views_are_uint8_squares_of_the_size(name, train, val, size, image):
    for transform in transforms(name, train, val, size):
        view = transform(image)
        assert view.shape == (3, size, size)
        assert view.dtype == torch.uint8


@pytest.mark.parametrize(("size", "enlarged"), [(224, 256), (112, 128), (96, 110)])
def test_default_test_view_is_squashed_and_cropped_in_the_centre(size, enlarged):
    image = photograph()
    border = (enlarged - size) // 2
    expected = image.resize((enlarged, enlarged), Image.Resampling.BICUBIC)
    expected = expected.crop((border, border, border + size, border + size))
    assert torch.equal(transforms(size=size)[2](image), pixels(expected))


def test_cifars_test_view_is_enlarged_and_the_native_one_untouched():
    image = photograph(32, 32)
    enlarged = image.resize((224, 224), Image.Resampling.BICUBIC)
    assert torch.equal(transforms("CIFAR10", "cifar", "cifar")[2](image), pixels(enlarged))
    assert torch.equal(transforms("CIFAR10", "native", "native", 32)[2](image), pixels(image))


@pytest.mark.parametrize("mode", ["native", "cifar"])
def test_cifars_weak_view_is_a_shifted_and_reflected_crop(mode):
    """Every one of 200 draws is one of the 81 crops of the padded image, or the mirror image of one."""
    image, size = photograph(32, 32), {"native": 32, "cifar": 48}[mode]
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = [Image.fromarray(padded[y : y + 32, x : x + 32]) for y in range(9) for x in range(9)]
    enlarged = [crop.resize((size, size), Image.Resampling.BICUBIC) for crop in crops]
    known = {pixels(view).numpy().tobytes() for view in enlarged}
    mirrored = {pixels(v.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).numpy().tobytes() for v in enlarged}
    weak, _, _ = transforms("CIFAR10", mode, mode, size)
    seeding.seed_cpu(0)
    views = [weak(image).numpy().tobytes() for _ in range(200)]
    assert set(views) <= known | mirrored
    assert 70 < sum(view in mirrored for view in views) < 130
    assert len(set(views)) > 80


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "width", "height"), [(32, 32, 32), (96, 96, 96), (32, 40, 33)])
def test_the_reflected_crop_is_torchvisions(size, width, height, flip):
    ours = augment.ReflectCrop(size, size // 8, flip)
    theirs = Compose([RandomCrop(size, size // 8, padding_mode="reflect"), *([RandomHorizontalFlip()] if flip else [])])
    image = photograph(width, height)
    for seed in range(300):
        views = []
        for crop in (ours, theirs):
            seeding.seed_cpu(seed)
            views.append((crop(image).tobytes(), torch.rand(1)))
        assert views[0] == views[1]  # and as many draws


@pytest.mark.parametrize(("name", "flipped"), [("Digits", False), ("CIFAR10", True), ("CIFAR100", True)])
@pytest.mark.parametrize("view", [0, 1], ids=["weak", "strong"])
@pytest.mark.parametrize("resizing", ["default", "cifar", "native"])
def test_digits_are_never_flipped(name, flipped, view, resizing):
    steps = transforms(name, resizing, resizing, 32)[view].transforms
    assert any(isinstance(step, RandomHorizontalFlip) or getattr(step, "flip", False) for step in steps) is flipped


def test_digits_keep_their_left_and_right():
    """Dark left, bright right: so is every weak view."""
    image = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 1, 3)))
    weak, _, _ = transforms("Digits", "default", "default", 32)
    for _ in range(50):
        view = weak(image).float()
        assert view[..., -4:].mean() > view[..., :4].mean()


def test_photographs_are_cropped_to_a_fifth_of_their_area_at_least():
    """A ramp from left to right: the range of a view tells the width of its crop."""
    image = Image.fromarray(np.tile(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (400, 1, 3)))
    weak, _, _ = transforms()
    seeding.seed_cpu(0)
    views = [weak(image).float() for _ in range(100)]
    widths = [(v.max() - v.min()) / 255 for v in views]
    assert min(widths) > np.sqrt(0.2 * 3 / 4) - 0.02
    assert max(widths) > 0.9
    assert 25 < sum(v[..., 0].mean() > v[..., -1].mean() for v in views) < 75  # and half of them are mirrored


def test_a_photographs_crop_is_enlarged_bilinearly():
    image = photograph(40, 30)
    weak, _, _ = transforms(size=64)
    seeding.seed_cpu(0)
    view = weak(image)
    seeding.seed_cpu(0)
    top, left, height, width = RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3))
    crop = image.crop((left, top, left + width, top + height))
    expected = pixels(crop.resize((64, 64), Image.Resampling.BILINEAR))
    assert torch.equal(view, expected) or torch.equal(view, expected.flip(2))


def test_strong_is_weak_and_then_randaugment_at_the_final_size():
    weak, strong, _ = transforms("CIFAR10", "cifar", "cifar", 64)
    assert [type(step) for step in strong.transforms[:-3]] == [type(step) for step in weak.transforms[:-1]]
    assert type(strong.transforms[-2]) is auto_augment.RandAugment


@pytest.mark.parametrize(
    ("config", "cutout", "types"),
    [
        (CONFIG, 0, [auto_augment.RandAugment]),
        (CONFIG, 0.25, [auto_augment.RandAugment, classic.Cutout]),
        ("classic", 0, [classic.Classic]),
        ("classic", 0.5, [classic.Classic, classic.Cutout]),
    ],
)
def test_cutout_comes_last(config, cutout, types):
    policy = augment.policy(config, MEAN, cutout)
    assert [type(operation) for operation in policy] == types
    if cutout:
        assert (policy[-1].share, policy[-1].fill) == (cutout, (124, 116, 104))


def test_randaugments_operations_are_timms():
    ours, timms = augment.rand_augment(CONFIG, FILL), auto_augment.rand_augment_transform(CONFIG, {})
    assert ours.num_layers == 2
    assert [op.name for op in ours.ops] == [op.name for op in timms.ops]
    assert len(ours.ops) == 15
    for op in ours.ops:
        assert op.magnitude == 10
        assert op.magnitude_std == 2
        assert op.prob == 0.5


def test_randaugments_pixels_are_timms():
    image = photograph(32, 32)
    options = {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BILINEAR}
    ours, timms = augment.rand_augment(CONFIG, FILL), auto_augment.rand_augment_transform(CONFIG, options)
    for seed in range(100):
        views = []
        for transform in (ours, timms):
            seeding.seed_cpu(seed)
            views.append(transform(image).tobytes())
        assert views[0] == views[1]


def operation(name: str, mean=MEAN) -> auto_augment.AugmentOp:
    (augmentation,) = augment.policy(CONFIG, mean, 0)
    (op,) = [op for op in augmentation.ops if op.name == name]
    op.prob, op.magnitude_std = 1.0, 0
    return op


@pytest.mark.parametrize("magnitude", [0, 1, 2])
def test_posterize_to_0_bits_is_black(magnitude):
    op = operation("Posterize")
    op.magnitude = magnitude
    assert op.level_fn(magnitude, op.hparams) == (0,)
    assert op(photograph()).getextrema() == ((0, 0),) * 3


def test_posterize_keeps_the_highest_bits():
    op = operation("Posterize")
    assert np.array_equal(np.asarray(op(photograph())), np.asarray(photograph()) & 0b11110000)


@pytest.mark.parametrize(
    ("mean", "colour"), [(MEAN, (124, 116, 104)), ([0.3092] * 3, (79, 79, 79)), ([1.0, 2.0, 0.0], (255, 255, 0))]
)
def test_rotation_fills_with_the_mean_colour(mean, colour):
    random.seed(0)
    rotated = operation("Rotate", mean)(Image.new("RGB", (64, 64), "white"))
    assert rotated.getpixel((0, 0)) == colour


@pytest.mark.parametrize(("config", "layers"), [("rand", 2), ("rand-m9-mstd0.5-inc1", 2), ("rand-n3", 3)])
def test_randaugment_strings(config, layers):
    assert augment.rand_augment(config, FILL).num_layers == layers


@pytest.mark.parametrize(
    "config", ["", "randm10", "rand-x3", "rand-m", "rand-m10 -n2", "original", "augmix-m3", "rand-m-1"]
)
def test_other_strings_are_refused(config):
    with pytest.raises(UserError, match=f"--auto-augment '{config}'"):
        augment.rand_augment(config, FILL)
