"""Convert a checkpoint of self-supervised pretraining into a backbone that `--pretrained-backbone` takes.

    python convert_moco_to_pretrained.py INPUT BACKBONE_OUT FC_OUT

BACKBONE_OUT gets the backbone of the query encoder, FC_OUT its projection head, both as dictionaries of tensors with
the names that torchvision and timm use. INPUT is a checkpoint of MoCo v1 or v2 (the published table's is
moco_v2_800ep_pretrain.pth.tar of https://github.com/facebookresearch/moco), of MoCo v3 (but for its ViT-S, which timm
lacks), or of DINO (its teacher is taken). No code from the file is run.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from common import cli
from common.errors import UserError
from common.networks import backbone_files, backbones
from common.system import checkpoint


@dataclass(frozen=True)
class Format:
    """Where a kind of checkpoint keeps the encoder: an entry of the file, and prefixes of names without `module.`."""

    entry: str
    backbone: str
    head: tuple[str, ...]


FORMATS = {
    "MoCo v1 or v2": Format("state_dict", "encoder_q.", ("encoder_q.fc.",)),
    "MoCo v3": Format("state_dict", "base_encoder.", ("base_encoder.fc.", "base_encoder.head.")),
    "DINO": Format("teacher", "backbone.", ("head.",)),
}
ARCHITECTURES = [*sorted(backbones.TORCHVISION_V1), "vit_small_patch16_224", "vit_base_patch16_224"]


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=cli.filepath, metavar="INPUT", help="checkpoint of the pretraining")
    parser.add_argument("backbone_out", type=cli.filepath, metavar="BACKBONE_OUT", help="where the backbone goes")
    parser.add_argument("fc_out", type=cli.filepath, metavar="FC_OUT", help="where the projection head goes")
    return parser.parse_args(argv)


def read(file: Path) -> object:
    with torch.serialization.safe_globals([argparse.Namespace]):  # DINO's files hold a Namespace of plain values
        return backbone_files.read_checkpoint(file)


def split(content: object, file: Path) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """The format's name, the backbone and the projection head of a loaded checkpoint.

    Raises:
        UserError: it has no query encoder.
    """
    for name, form in FORMATS.items():
        state = content.get(form.entry) if isinstance(content, dict) else None
        if not isinstance(state, dict):
            continue
        state = {str(key).removeprefix("module."): value for key, value in state.items()}
        head = {key.removeprefix(form.backbone): state[key] for key in state if key.startswith(form.head)}
        backbone = {
            key.removeprefix(form.backbone): state[key]
            for key in state
            if key.startswith(form.backbone) and not key.startswith(form.head)
        }
        if backbone:
            return name, backbone, head
    raise UserError(
        f"'{file}' holds no query encoder (module.encoder_q.* in its state_dict): is it a checkpoint of MoCo? "
        "A file with names such as conv1.weight is a backbone already, for --pretrained-backbone"
    )


def recognize(backbone: dict[str, Tensor]) -> str | None:
    """The model that has exactly these tensors."""
    shapes = {key: value.shape for key, value in backbone.items() if not key.endswith("num_batches_tracked")}
    for arch in ARCHITECTURES:
        with torch.device("meta"):  # shapes without memory
            wanted = timm.create_model(arch, num_classes=0).state_dict()
        if shapes == {key: value.shape for key, value in wanted.items() if not key.endswith("num_batches_tracked")}:
            return arch
    return None


def write(state: dict[str, Tensor], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder of '{path}' ({error.strerror}): choose another") from None
    checkpoint.save(path, state)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(value.numel() for key, value in state.items() if not key.endswith(buffers))
    print(f"wrote '{path}': {len(state)} tensors, {parameters:,} parameters")


def main(args):
    paths = [path.resolve() for path in (args.input, args.backbone_out, args.fc_out)]
    if len(set(paths)) < len(paths):
        raise UserError("INPUT, BACKBONE_OUT and FC_OUT must be three different files")
    name, backbone, head = split(read(args.input), args.input)
    if not all(backbone_files.is_plain(value) for value in (*backbone.values(), *head.values())):
        raise UserError(f"the encoder of '{args.input}' holds more than tensors: download it again")
    broken = checkpoint.not_finite(backbone)
    if broken is not None:
        raise UserError(f"'{args.input}' holds NaN or infinity in {broken}: train or download it again")
    arch = recognize(backbone)
    if name == "MoCo v3" and arch == "vit_small_patch16_224":  # the shapes do not tell the number of heads
        raise UserError(
            f"'{args.input}' is the ViT-S of MoCo v3, which has 12 attention heads, and timm's {arch} has 6: take its "
            "ViT-B or its ResNet-50"
        )
    write(backbone, args.backbone_out)
    write(head, args.fc_out)
    flags = f"--pretrained-backbone {args.backbone_out} -a {arch or 'ARCH'}"
    print(f"{name}, {arch or 'an architecture that is not known here'}: train with {flags}")


if __name__ == "__main__":
    cli.launch(parse_args, main)
