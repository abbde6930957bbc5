"""timm's pretrained weights: which ones a name means, and what is said where they cannot be had."""

import errno
import http.client
import socket
import time
from pathlib import Path
from unittest import mock

import huggingface_hub.constants
import pytest
import timm
import torch
from huggingface_hub.utils import HfHubHTTPError
from safetensors.torch import save_file

import erm
from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import backbones, pretrained
from common.networks.initial_weights import InitialWeights
from common.run import Run
from tests.conftest import SMALL, train_small

NORMALIZER = Normalizer((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub and of PyTorch, no network, and none of the variables that concern it."""
    for name in (*pretrained.VARIABLES, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

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
    "ghostnet_100": "in1k",
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


def test_without_a_network_nothing_is_tried_again(monkeypatch, capfd):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} seconds"))
    with pytest.raises(UserError, match=r"could not be downloaded \(Network is unreachable\): connect to the internet"):
        backbones.backbone("test_resnet", 160, NORMALIZER)
    assert capfd.readouterr().err == ""


def test_a_hub_that_answers_is_asked(monkeypatch):
    """Behind a proxy it is not looked for: the proxy alone may know its address."""
    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.example:8080")
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: asked.append(place) or mock.Mock())
    monkeypatch.setattr(timm, "create_model", mock.Mock(side_effect=HfHubHTTPError("asked", response=mock.Mock())))
    for variable, places in [("NO_PROXY", [("hub.example", 8080)]), ("HTTP_PROXY", [])]:
        monkeypatch.setenv(variable, "http://proxy.example:1")
        with pytest.raises(UserError, match=r"could not be downloaded \(asked\)"):
            backbones.backbone("test_resnet", 160, NORMALIZER)
        assert asked == places
        asked.clear()


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


def test_a_run_that_goes_on_with_another_timm_records_the_weights_that_it_began_with(cache, monkeypatch):
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, blob(cache, "test_resnet.r160_in1k"))
    flags = ["-a", "test_resnet", "--epochs", "2", "-i", "1"]
    killed = mock.patch.object(Run, "finish", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        train_pretrained(*flags, log=cache / "run")
    monkeypatch.setattr(InitialWeights, "timm_name", lambda self: "test_resnet.younger")
    assert train_pretrained(*flags, log=cache / "run")["pretraining_weights"] == "test_resnet.r160_in1k"


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
    names = {}
    for start in (
        "--scratch",
        f"--pretrained-backbone {__file__}",
        f"--init-from {Path(__file__).parent}",
        "--finetune",
    ):
        args = erm.parse_args(f"data -d CIFAR10 -a convnext_tiny {start}".split())
        arch = None if args.scratch else args.arch
        weights = InitialWeights(args.pretrained_backbone, args.init_from, arch, Path("log"))
        names[start.split()[0]] = weights.timm_name()
    assert names.pop("--finetune") == "convnext_tiny.in12k_ft_in1k"
    assert set(names.values()) == {None}


def test_a_name_that_timm_has_given_up_means_its_present_one():
    assert backbones.timm_name("convnext_tiny_in22ft1k") == "convnext_tiny.fb_in22k_ft_in1k"
    assert backbones.own_config("convnext_tiny_in22ft1k", False, None).tag == "fb_in22k_ft_in1k"
    with pytest.raises(UserError, match=r"^unknown model 'vit_base_patch32_224_sam': did you mean .*\.sam_in1k"):
        backbones.timm_name("vit_base_patch32_224_sam")  # timm's own table names a tag that does not exist


def write_weights(file: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), file)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"


@pytest.mark.parametrize("content", [b"", LFS, "cut off"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_in_the_hubs_cache_are_named(file, content, cache):
    path = blob(cache, "test_resnet.r160_in1k", file)
    if content == "cut off":
        save = save_file if file.endswith("safetensors") else torch.save
        save(timm.create_model("test_resnet").state_dict(), path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        backbones.backbone("test_resnet", 160, NORMALIZER)
    message = str(error.value)
    assert message.startswith(f"'{path}', where the weights of 'test_resnet.r160_in1k' are kept, is damaged (")
    assert message.endswith("): delete it, and they are downloaded again")
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", LFS, b"PK\x03\x04"])
def test_damaged_weights_in_pytorchs_cache_are_named(content, cache):
    path = cache / "torch" / "hub" / "checkpoints" / "seresnet18-4bb0ce65.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"^'{path}', where the weights of 'legacy_seresnet18.in1k' are kept, is damaged"
    ):
        backbones.backbone("legacy_seresnet18", 64, NORMALIZER)


VARIABLES = [
    ("ALL_PROXY", "socks5://127.0.0.1:1", "test_resnet"),
    ("ALL_PROXY", "foo://127.0.0.1:1", "test_resnet"),
    ("all_proxy", "http://127.0.0.1:port", "test_resnet"),
    ("HTTPS_PROXY", "http://127.0.0.1:port", "legacy_seresnet18"),
    ("SSL_CERT_FILE", "/nowhere", "test_resnet"),
]


@pytest.mark.parametrize("is_kept", [False, True], ids=["not kept", "kept"])
@pytest.mark.parametrize(("variable", "value", "arch"), VARIABLES)
def test_a_variable_that_cannot_be_right_is_named(variable, value, arch, is_kept, cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    monkeypatch.setenv(variable, value)
    if is_kept:
        write_weights(blob(cache, "test_resnet.r160_in1k"))
    with pytest.raises(UserError) as error:
        backbones.backbone(arch, 64, NORMALIZER)
    message = str(error.value)
    assert "' could not be downloaded (" in message
    assert f"): check or unset {variable}, or give --pretrained-backbone FILE or --scratch" in message
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be kept in the cache or read there .*: free some"),
        (http.client.BadStatusLine("rubbish"), "could not be downloaded .rubbish.: connect to the internet once"),
        (RuntimeError("Data processing error: CAS service error"), "could not be downloaded .Data processing error"),
        (HfHubHTTPError("500 Server Error", response=mock.Mock()), "could not be downloaded .500 Server Error.: conn"),
    ],
)
def test_whatever_ends_a_download_is_one_line(error, message, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=f"^the weights of 'test_resnet.r160_in1k' {message}"):
        backbones.backbone("test_resnet", 64, NORMALIZER)


def test_an_error_that_is_no_downloads_stays_what_it_is(cache, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("of the network itself")

    write_weights(blob(cache, "test_resnet.r160_in1k"))
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ValueError, match="of the network itself"):
        backbones.backbone("test_resnet", 64, NORMALIZER)


def test_for_cached_weights_nobody_looks_for_the_hub(cache, monkeypatch):
    monkeypatch.setattr(pretrained, "_look_for_hub", lambda name: pytest.fail(f"{name} is in the cache"))
    write_weights(blob(cache, "test_resnet.r160_in1k"))
    backbones.backbone("test_resnet", 160, NORMALIZER)


def test_a_run_from_random_weights_names_none_of_timms(cache):
    """Where timm has some for the network, too."""
    result = train_small("erm", "-a", "test_resnet", "--epochs", "1", "-i", "1", log=cache / "run")
    assert (result["pretraining"], result["pretraining_weights"]) == ("scratch", None)
