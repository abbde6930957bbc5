"""`common/wide_resnet.py` keeps its promises to exported networks: its name, what it needs, and its tensors' names."""

import ast
import subprocess
import sys

import pytest
import timm
import torch

from common import wide_resnet
from tests.conftest import ROOT


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def block(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    shortcut = {f"{name}.shortcut.weight": (after, before, 1, 1)} if before != after else {}
    return {
        **norm(f"{name}.bn1", before),
        f"{name}.conv1.weight": (after, before, 3, 3),
        **norm(f"{name}.bn2", after),
        f"{name}.conv2.weight": (after, after, 3, 3),
        **shortcut,
    }


# As the first files that export.py wrote have them.
WRN_10_1_HALF = {
    "conv1.weight": (16, 3, 3, 3),
    **block("layers.0", 16, 16),
    **block("layers.1", 16, 32),
    **block("layers.2", 32, 64),
    **norm("bn", 64),
}


# Of the first file's code, for the weights and images below.
FEATURES = [0.0, 0.315299, 0.732306, 0.100625, 0.13594, 0.0, 0.301207, 0.0]


def test_exports_of_long_ago_are_loaded_and_give_the_same_features():
    model = timm.create_model("wrn_10_1_half", num_classes=0).eval()
    state = {}
    for number, (name, shape) in enumerate(WRN_10_1_HALF.items(), start=1):
        waves = (number * torch.arange(torch.Size(shape).numel() or 1, dtype=torch.float64)).sin().reshape(shape)
        state[name] = (1 + 0.5 * waves if "running_var" in name else 0.3 * waves).float()
    assert list(model.state_dict()) == [*WRN_10_1_HALF]
    model.load_state_dict(state)
    images = torch.arange(2 * 3 * 32 * 32, dtype=torch.float64).sin().float().reshape(2, 3, 32, 32)
    with torch.no_grad():
        features = model(images)
    assert features[0, :8].tolist() == pytest.approx(FEATURES, rel=1e-4, abs=1e-6)


def test_it_needs_torch_and_timm_alone():
    tree = ast.parse((ROOT / "common" / "wide_resnet.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in names}
    assert packages - {"torch", "timm"} <= sys.stdlib_module_names


def test_it_is_imported_by_its_name_from_a_folder_of_its_own(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "wide_resnet.py").write_bytes((ROOT / "common" / "wide_resnet.py").read_bytes())
    code = "import common.wide_resnet, timm; print(type(timm.create_model('wrn_10_1', num_classes=0)).__module__)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "common.wide_resnet\n"
    assert wide_resnet.__doc__.startswith("Wide ResNets")


@pytest.mark.parametrize(
    ("arch", "size", "side"),
    [
        *(("wrn_28_2", 32, 8), ("wrn_10_1", 32, 8), ("wrn_28_8", 16, 4), ("wrn_28_2_leaky", 32, 8)),
        *(("wrn_28_8_leaky", 16, 4), ("wrn_37_2_leaky", 96, 6)),
        *(("wrn_10_1_half", 32, 4), ("wrn_10_1_half_leaky", 32, 4)),
    ],
)
def test_the_last_maps_have_the_papers_size(arch, size, side):
    """A quarter of the image's; an eighth with a stem of stride 2; a sixteenth with four stages of stride 2."""
    model = timm.create_model(arch, num_classes=0).eval()
    with torch.no_grad():
        maps = model.layers(model.conv1(torch.zeros(1, 3, size, size)))
    assert maps.shape[2:] == (side, side)


@pytest.mark.parametrize("arch", ["wrn_28_2", "wrn_28_2_leaky"])
def test_convolutions_begin_with_hes_deviation_by_their_outputs(arch):
    model, seen = timm.create_model(arch, num_classes=0), 0
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 4000:
            outputs, inputs, side, _ = module.weight.shape
            assert module.weight.std().item() == pytest.approx((2 / (side * side * outputs)) ** 0.5, rel=0.06)
            seen += inputs != outputs
    assert seen >= 2  # where inputs would give another number
