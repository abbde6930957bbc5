"""Export the network of a run for other programs.

    python export.py RUN_FOLDER OUT.safetensors [--onnx]
    python export.py RUN_FOLDER OUT --timm

OUT gets the tested network, without other parts that its method trains. It has the tensors `backbone.*` (a network of
timm), `bottleneck.*` (linear, BatchNorm, ReLU; or nothing) and `head.*` (linear). The metadata of the file says how to
make the network and how to prepare images. Each entry is JSON:

    arch, options                   for timm.create_model
    feature_dim, bottleneck_dim     the output widths of backbone and bottleneck; 0: there is no bottleneck
    classes                         the names of the outputs
    exif_orientation                whether to turn an image first as its EXIF says, by PIL.ImageOps.exif_transpose
    resize, crop                    sides in pixels: resize to a square (bicubic), then crop its center
    mean, std                       of each channel of an RGB image, for pixels in [0, 1]; divide 16-bit grey by 257
                                    first, do not clip it
    method, data, checkpoint        where it comes from
    epoch, chosen_by                of the checkpoint, and what chose it: test images, held-out images or the last epoch

docs/own_images.md has the lines that load it with timm and torch alone. `--onnx` also writes OUT with the ending
`.onnx`: the same network with the same metadata. It turns float32 images [batch, 3, crop, crop], prepared in this way,
into logits [batch, classes]. These are checked against torch's. `--onnx` needs the package onnx.

`--timm`, for runs with --no-bottleneck, makes OUT a folder that timm (1.0.16 or later) loads by itself, with the names
of the classes and the preprocessing in its config.json:

    model = timm.create_model("local-dir:OUT", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    model.pretrained_cfg["label_names"][model(prepare(image)[None]).argmax()]
"""

import argparse
import contextlib
import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from torch import nn

from common import cli, trained
from common.errors import UserError
from common.loading import augment
from common.networks import adapters, backbones
from common.system import log, memory
from common.system.files import write_whole
from common.wide_resnet import WideResNet

TOLERANCE = 1e-4  # of the logits, between torch and ONNX


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=cli.path, metavar="RUN_FOLDER", help="the training's --log folder")
    parser.add_argument("out", type=cli.path, metavar="OUT", help="the file to write, FILE.safetensors, or a folder")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="which one (default: best)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--onnx", action="store_true", help="write FILE.onnx, too (needs the package onnx)")
    kind.add_argument("--timm", action="store_true", help="write a folder in timm's own format (no bottleneck)")
    return parser.parse_args(argv)


def plain_network(run: trained.Trained) -> tuple[nn.Sequential, dict[str, int]]:
    """The run's network, of timm's and torch's own modules, and the options that timm needs for it.

    Raises:
        UserError: timm cannot make the backbone.
    """
    arch, image_size, model = run.args.arch, run.args.image_size, run.model
    model.precision = "float32"
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"img_size": image_size}):  # a ViT may have been made for another size than its own
        try:
            network = nn.Sequential()
            network.backbone = timm.create_model(backbones.timm_name(arch), num_classes=0, **options)
            network.bottleneck, network.head = model.bottleneck, model.head
            network.eval().load_state_dict(adapters.Merged(model).state_dict())
            with torch.no_grad():
                if torch.allclose(network(images), model(images), rtol=TOLERANCE, atol=TOLERANCE):
                    return network, options
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # of shapes, or no such option
            if memory.shortage(error):
                raise
    raise UserError(
        f"timm alone cannot make the network of '{run.file}', such as one with AdaptFormers: choose another run"
    )


def description(run: trained.Trained, options: dict[str, int]) -> dict[str, str]:
    """The metadata: names -> JSON."""
    args = run.args
    values: dict[str, Any] = {
        "arch": backbones.timm_name(args.arch),
        "options": options,
        "feature_dim": run.model.backbone.feature_dim,
        "bottleneck_dim": args.bottleneck_dim,
        "classes": run.classes,
        "exif_orientation": args.exif_orientation,
        "resize": augment.resized(args.val_resizing, args.image_size),
        "crop": args.image_size,
        "mean": args.norm_mean,
        "std": args.norm_std,
        "method": run.method,
        "data": args.data,
        "checkpoint": run.file.name,
        "epoch": run.epoch,
        "chosen_by": run.chosen_by,
    }
    return {name: json.dumps(value, allow_nan=False) for name, value in values.items()}


def timm_files(run: trained.Trained, network: nn.Sequential, options: dict[str, int]) -> dict[str, bytes]:
    """The files of a folder in timm's own format: name -> content.

    Args:
        network, options: see `plain_network`.

    Raises:
        UserError: there is a bottleneck, or timm's own classifier is no linear layer on the pooled features.
    """
    if run.args.bottleneck_dim:
        raise UserError(
            f"--timm: '{run.file}' has a bottleneck, which timm lacks: train again, and add --no-bottleneck"
        )
    arch, size = backbones.timm_name(run.args.arch), run.args.image_size
    model = timm.create_model(arch, num_classes=len(run.classes), **options)
    classifier = getattr(model, "get_classifier", lambda: None)()
    names = [name for name, module in model.named_modules() if module is classifier]
    head = {f"{names[0]}.{key}": value for key, value in network.head.state_dict().items()} if names else {}
    state = {key: value.contiguous() for key, value in (network.backbone.state_dict() | head).items()}
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        model.eval().load_state_dict(state)
        with torch.no_grad():
            same = torch.allclose(model(images), network(images), rtol=TOLERANCE, atol=TOLERANCE)
    except RuntimeError as error:  # of names or shapes
        if memory.shortage(error):
            raise
        same = False
    if not same:
        raise UserError(f"--timm: the classifier of timm's '{arch}' is not the head of this project: leave --timm out")
    config = timm_config(run, arch, options, names[0], model.pretrained_cfg)
    metadata = description(run, options)
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    return {"model.safetensors": safetensors.torch.save(state, metadata), "config.json": text.encode()}


def crop_pct(val_resizing: str, size: int) -> float:
    """The share of a resized test image that is cropped. timm rounds size / crop_pct down."""
    resized = augment.resized(val_resizing, size)
    return 1.0 if resized == size else size / (resized + 1e-6)


def timm_config(
    run: trained.Trained, arch: str, options: dict[str, int], classifier: str, own: dict[str, Any]
) -> dict[str, Any]:
    """What timm's `config.json` says. Its `squash` resizes to a square, as this project does.

    Args:
        classifier: the name of the last layer.
        own: timm's description of the architecture. If its size is fixed, timm makes it for the file's `input_size`,
            which may not be the size that it was made for here.
    """
    size = run.args.image_size
    fixed, own_size = bool(own.get("fixed_input_size")), own.get("input_size", [size])[-1]
    prepared = {
        "input_size": [3, size, size],
        "fixed_input_size": bool(options) or (fixed and own_size == size),
        "interpolation": "bicubic",
        "crop_pct": crop_pct(run.args.val_resizing, size),
        "crop_mode": "squash",
        "mean": run.args.norm_mean,
        "std": run.args.norm_std,
    }
    layers = {"classifier": classifier, "first_conv": own.get("first_conv"), "pool_size": None, "custom_load": False}
    return {
        "architecture": arch.partition(".")[0],
        "num_classes": len(run.classes),
        "num_features": run.model.backbone.feature_dim,
        "label_names": run.classes,
        "exif_orientation": run.args.exif_orientation,  # of no meaning to timm, which never turns an image
        "model_args": options or ({"img_size": own_size} if fixed else {}),
        "pretrained_cfg": {"num_classes": len(run.classes)} | prepared | layers,
    }


def onnx_model(network: nn.Module, image_size: int, metadata: dict[str, str]) -> bytes:
    """An ONNX file's content, for batches of any size, checked on one.

    Raises:
        UserError: the network has operations that ONNX lacks, or computes something else there.
    """
    import onnx  # noqa: PLC0415 (optional)

    buffer = io.BytesIO()
    any_size = {0: "batch"}
    try:
        # This exporter is the older one, since it needs onnx alone. It warns of that, and prints what it cannot do.
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, image_size, image_size),),
                buffer,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": any_size, "logits": any_size},
                dynamo=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:  # those of torch.onnx are RuntimeErrors
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"this network cannot be exported to ONNX ({reason}): leave --onnx out") from None
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, metadata)
    content = model.SerializeToString()
    images = torch.randn(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(images)
    difference = (torch.from_numpy(run_onnx(content, images.numpy())) - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1, expected.abs().max().item()):
        raise UserError(f"in ONNX the network's logits differ by {difference:.1e}: leave --onnx out")
    return content


def run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    """The logits, by onnxruntime where it is installed, otherwise by the slow reference that onnx brings along."""
    try:
        import onnxruntime  # noqa: PLC0415 (optional)

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except ImportError:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (optional)

        session = ReferenceEvaluator(content)
    return session.run(None, {"images": images})[0]


def has_onnx() -> bool:
    return importlib.util.find_spec("onnx") is not None


def files(args: argparse.Namespace, run: trained.Trained) -> dict[Path, bytes]:
    """The files to write: path -> content."""
    out, (network, options) = Path(args.out), plain_network(run)
    if args.timm:
        return {out / name: content for name, content in timm_files(run, network, options).items()}
    metadata = description(run, options)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    written = {out: safetensors.torch.save(weights, metadata)}
    if args.onnx:
        written[out.with_suffix(".onnx")] = onnx_model(network, run.args.image_size, metadata)
    return written


def make_folder(folder: Path) -> None:
    """Make the folder, if it does not exist.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder '{folder}' ({error.strerror}): choose another OUT") from None


def main(args):
    log.send_to(None)
    out = Path(args.out)
    if args.timm and out.suffix == ".safetensors":
        raise UserError(f"--timm writes a folder, and '{out}' has a file's ending: name it without .safetensors")
    if not args.timm and out.suffix != ".safetensors":
        raise UserError(f"OUT '{out}' must end with .safetensors: give it that ending (or --timm, for a folder)")
    if args.onnx and not has_onnx():
        raise UserError("--onnx needs the package onnx: run pip install onnx, or leave it out")
    run = trained.load(Path(args.run_folder), args.checkpoint)
    written = files(args, run)
    if args.timm:
        make_folder(out)
    for path, content in written.items():
        write_whole(path, content)
        print(f"wrote '{path}': {len(run.classes)} classes, {len(content) / 1e6:.1f} MB")
    print(f"the network is {run.origin}")
    if run.args.exif_orientation:
        print("the run turned photographs as their EXIF says: do so first, with PIL.ImageOps.exif_transpose(image)")
    if isinstance(run.model.backbone, WideResNet):
        print(f"timm knows '{run.args.arch}' after `import common.wide_resnet`, a file that needs torch and timm alone")
    if args.timm:
        print(f'load it with timm.create_model("local-dir:{out}", pretrained=True)')


if __name__ == "__main__":
    cli.launch(parse_args, main)
