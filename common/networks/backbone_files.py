"""Backbone files (`--pretrained-backbone`): read without running code, and loaded strictly."""

import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from common.errors import UserError
from common.system import checkpoint, memory

logger = logging.getLogger(__name__)
TimmModel = Any  # an nn.Module with the attributes of timm's networks, such as `pretrained_cfg`

ENTRIES = ("state_dict", "model", "model_state_dict")  # where training checkpoints hold the weights
# What pretraining adds to a backbone (mask tokens of DINOv2 and iBOT, heads of SwAV and SimCLR), and tables in older
# files of Swin, which the network computes itself.
EXTRAS = re.compile(
    r"^(mask_token|masked_embed)$|^(projection_head|projector|predictor|prototypes)\.|\.(relative_position_index|attn_mask)$"
)


def read_checkpoint(file: str | Path) -> Any:
    """Read a .pth or .safetensors file, without running code from it.

    Raises:
        UserError: the file is missing, not a checkpoint, or holds more than tensors and plain values.
    """
    file = Path(file)
    if not os.path.isfile(file):  # unlike Path.is_file, no error for names that are too long
        problem = "is a folder" if os.path.isdir(file) else "does not exist"
        raise UserError(f"file '{file}' {problem}: give the path of a .pth or .safetensors file")
    try:
        return read_unchecked(file)
    except (*checkpoint.UNREADABLE, SafetensorError) as error:
        reason = checkpoint.why(error)
        if memory.shortage(error):
            raise UserError(f"there is not enough memory to read '{file}', unless it is damaged ({reason})") from None
        raise UserError(
            f"'{file}' is not a checkpoint that can be loaded safely ({reason}): download or convert it again"
        ) from None


def read_unchecked(file: Path) -> Any:
    """Read a .pth or .safetensors file. Raises a `SafetensorError` or one of `checkpoint.UNREADABLE`."""
    return load_file(file) if file.suffix == ".safetensors" else checkpoint.load_safely(file)


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """The weights in a .pth or .safetensors file, which may be a training checkpoint.

    From a checkpoint of this project, the weights of the tested network are taken.

    Raises:
        UserError: see `read_checkpoint`; or the file holds other things than tensors, or a network only in part.
    """
    content = read_checkpoint(file)
    state = content
    if isinstance(content, dict):
        is_own = isinstance(content.get("args"), dict) and "bottleneck_dim" in content["args"]
        inner = next((content[key] for key in ENTRIES if isinstance(content.get(key), dict)), content)
        state = _tested_network(content, file) if is_own else inner
    if not isinstance(state, dict) or not all(isinstance(key, str) and is_plain(state[key]) for key in state):
        raise UserError(f"'{file}' does not hold a dictionary of tensors: save the state_dict of a backbone")
    return state


def _tested_network(content: dict[str, Any], file: str | Path) -> dict[str, Any] | None:
    """The weights of the tested network in a best.pth or a latest.pth. Only latest.pth has the entry `step`."""
    flags = content["args"]
    if flags.get("adapter"):
        raise UserError(f"'{file}' is of a run with --adapter, whose parts no other network has: take another run's")
    name = content.get("evaluated", "model")
    if "step" in content and (flags.get("lora") or name is None):
        raise UserError(f"'{file}' does not hold the whole network that was tested: take the run's best.pth")
    logger.info(f"'{file}' is of a run of this project with --arch {flags.get('arch')}: its tested network is taken")
    return checkpoint.part(content, str(name))


def is_plain(value: Any) -> bool:
    """Whether it is a tensor that can be a weight: dense, real, not quantized, not on the meta device."""
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized:
        return False
    return value.layout == torch.strided and not value.is_complex()


def load_backbone(model: nn.Module, file: str | Path) -> None:
    """Load a backbone file strictly: it must hold every tensor of the model.

    The names may have a common prefix, such as `module.` or `backbone.`; tensors without it are ignored. A classifier
    and `EXTRAS` are ignored, too. Nothing else may be left over. A ViT's position embeddings are resampled to the
    model's if only their number differs.

    Raises:
        UserError: see `read_state_dict`; or tensors are missing, left over, of other shapes or types, or not finite; or
            the file holds several such networks.
    """
    state = read_state_dict(file)
    if any(".encoder_q." in key or key.startswith(("module.encoder_", "module.base_encoder")) for key in state):
        raise UserError(
            f"'{file}' is an unconverted MoCo checkpoint: run "
            f"python convert_moco_to_pretrained.py {file} BACKBONE_OUT FC_OUT and pass BACKBONE_OUT"
        )
    wanted = model.state_dict()
    fill(model, _without_extras(_without_prefix(state, [*wanted], file), model, file), file)


def fill(model: nn.Module, state: dict[str, Tensor], file: str | Path) -> None:
    """Load a state strictly. A ViT's position embeddings are resampled if only their number differs.

    Args:
        state: weights under the model's own names.
        file: where they come from, for messages.

    Raises:
        UserError: tensors are missing, left over, of other shapes or types, or not finite.
    """
    wanted = model.state_dict()
    state = _with_resampled_positions(state, model)
    # Files from before PyTorch 0.4.1 lack the buffers that count batches. These do not change a result.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    floats = {key for key in wanted if wanted[key].is_floating_point()}
    integers = [key for key in wanted if key in state and key in floats and not state[key].is_floating_point()]
    problems = {
        "lacks": missing,
        "has, beyond the backbone,": surplus,
        "has other shapes for": shapes,
        "has whole numbers for": integers,
    }
    for problem, keys in problems.items():
        if keys:
            raise UserError(f"'{file}' {problem} {_some(keys)}: it is a file for another --arch")
    broken = checkpoint.not_finite(state)
    if broken is not None:
        raise UserError(f"'{file}' holds NaN or infinity in {broken}: train, convert or download it again")
    model.load_state_dict(state, strict=False)


def _without_prefix(state: dict[str, Tensor], wanted: list[str], file: str | Path) -> dict[str, Tensor]:
    """The tensors that have the file's common prefix, without it; all tensors if there is no such prefix."""
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    found = {prefix: sum(prefix + name in state for name in names) for prefix in _prefixes(state, names[0])}
    whole = sorted(prefix for prefix in found if found[prefix] == len(names))
    if all(name in state for name in names) or (not whole and any(name in state for name in names)) or not found:
        return state
    if len(whole) > 1:
        raise UserError(f"'{file}' holds several networks ({_some(whole)}): save the state_dict of one of them")
    prefix = max(found, key=found.__getitem__)  # if none is whole, `fill` says what is missing
    outside = [key for key in state if not key.startswith(prefix)]
    ignored = f"; {_some(outside)} left out" if outside else ""
    logger.info(f"'{file}': names are taken without their prefix '{prefix}'{ignored}")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _prefixes(state: dict[str, Tensor], name: str) -> set[str]:
    return {key.removesuffix(name) for key in state if key.endswith(f".{name}")}


def _without_extras(state: dict[str, Tensor], model: TimmModel, file: str | Path) -> dict[str, Tensor]:
    heads = model.pretrained_cfg["classifier"] or ()  # timm gives one name, several, or none
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    wanted = model.state_dict()
    extras = [key for key in state if key not in wanted and EXTRAS.search(key)]
    if extras:
        logger.info(f"'{file}' has parts that only its pretraining needed: {_some(extras)} left out")
    return {key: value for key, value in state.items() if key not in extras}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _with_resampled_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state, with position embeddings resampled to the model's grid if they are a ViT's on another square grid."""
    if not isinstance(model, VisionTransformer) or model.pos_embed is None or "pos_embed" not in state:
        return state
    found, wanted = state["pos_embed"], model.pos_embed
    other_tokens = 0 if model.no_embed_class else model.num_prefix_tokens
    if found.ndim != 3 or found.shape[::2] != wanted.shape[::2] or found.shape[1] in (wanted.shape[1], other_tokens):
        return state
    patches = max(0, found.shape[1] - other_tokens)
    if math.isqrt(patches) ** 2 != patches or not found.is_floating_point():
        return state  # `fill` says what is wrong
    grid = list(model.patch_embed.grid_size)
    return state | {"pos_embed": resample_abs_pos_embed(found, new_size=grid, num_prefix_tokens=other_tokens)}
