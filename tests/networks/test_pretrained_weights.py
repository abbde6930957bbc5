"""timm's pretrained weights: which ones a name means, and what is said where they cannot be had."""

import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import backbones
from common.records import results
from tests.conftest import SMALL, train_small

NORMALIZER = Normalizer((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub and of PyTorch, and no network."""

    def offline(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket.socket, "connect", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def blob(cache: Path, name: str, file: str = "model.safetensors") -> Path:
    """Where the hub would keep a file of one of timm's weights; a snapshot links to it."""
    folder = cache / "hub" / f"models--timm--{name}"
    commit = "0" * 40
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / f"snapshots/{commit}" / file).symlink_to(f"../../blobs/{file}-hash")
    return folder / "blobs" / f"{file}-hash"


# Bare names of ten families -> timm's default tag for them. Two have no hub's page, but an address.
FAMILIES = {
    "convnext_tiny": "in12k_ft_in1k",
    "tf_efficientnet_lite0": "in1k",
    "vit_tiny_patch16_224": "augreg_in21k_ft_in1k",
    "swin_tiny_patch4_window7_224": "ms_in1k",
    "mobilenetv3_small_050": "lamb_in1k",
    "vgg11": "tv_in1k",
    "densenet121": "ra_in1k",
    "regnety_002": "pycls_in1k",
    "gcvit_xxtiny": "in1k",
    "legacy_seresnet18": "in1k",
}


@pytest.mark.parametrize(("arch", "tag"), FAMILIES.items())
def test_a_bare_name_has_weights_and_offline_only_their_download_fails(arch, tag):
    assert backbones.weights_name(arch) == f"{arch}.{tag}"
    with pytest.raises(UserError) as error:
        backbones.backbone(arch, 224, NORMALIZER)
    message = str(error.value)
    assert message.startswith(f"the weights of '{arch}.{tag}' could not be downloaded (")
    assert "\n" not in message
    assert backbones.own_config(arch, False, None).tag == tag


@pytest.mark.parametrize("arch", ["test_resnet", "test_resnet.r160_in1k"])
def test_cached_weights_are_loaded_and_recorded(arch, cache):
    torch.manual_seed(1)
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, blob(cache, "test_resnet.r160_in1k"))
    flags = ["-a", arch, "--epochs", "1", "-i", "1", "--lr", "1e-30", "--wd", "0"]
    result = train_pretrained(*flags, log=cache / "run")
    assert (result["arch"], result["pretraining"]) == (arch, "supervised")
    assert result["pretraining_weights"] == "test_resnet.r160_in1k"
    said = "'test_resnet' starts from timm's weights 'test_resnet.r160_in1k'" in (cache / "run" / "log.txt").read_text()
    assert said is (arch == "test_resnet")
    best = torch.load(cache / "run" / "checkpoints" / "best.pth", weights_only=True)
    assert torch.equal(best["model"]["backbone.conv1.0.weight"], state["conv1.0.weight"])
    assert best["args"]["norm_mean"] == [0.5] * 3  # the weights' own


def train_pretrained(*flags: str, log: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.conftest.SMALL", [flag for flag in SMALL if flag != "--scratch"])
        return train_small("erm", *flags, log=log)


def test_the_tables_names_keep_their_weights():
    for arch in backbones.TORCHVISION_V1:
        assert backbones.weights_name(arch) == f"{arch}.tv_in1k"
        assert backbones.own_config(arch, False, None) is None


def test_only_timms_weights_are_recorded():
    assert backbones.weights_name("wrn_28_2") is None
    for scratch, file in ((True, None), (False, __file__)):
        assert results._pretraining("convnext_tiny", scratch, file)["pretraining_weights"] is None


def test_a_name_that_timm_has_given_up_means_its_present_one():
    assert backbones.timm_name("convnext_tiny_in22ft1k") == "convnext_tiny.fb_in22k_ft_in1k"
    assert backbones.own_config("convnext_tiny_in22ft1k", False, None).tag == "fb_in22k_ft_in1k"
    with pytest.raises(UserError, match=r"^unknown model 'vit_base_patch32_224_sam': did you mean .*\.sam_in1k"):
        backbones.timm_name("vit_base_patch32_224_sam")  # timm's own table names a tag that does not exist
