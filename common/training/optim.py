"""The optimizer with its parameter groups, and the two learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any

from timm.models import group_parameters
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError


def create(
    name: str,
    model: Any,
    lr: float,
    wd: float,
    finetune: bool = False,
    layer_decay: float = 1.0,
    no_decay_on_norms: bool = False,
) -> Optimizer:
    """The optimizer of `--optimizer` for what is trained of a model.

    sgd: Nesterov momentum of 0.9, and the decay as part of the gradient
    adamw: betas 0.9 and 0.999, and the decay apart from the gradient (arXiv:1711.05101)

    Args:
        model: has a `backbone`, and `parameter_groups(lr, finetune)`, each group with its rate.
        lr: the rate of what is new; see `finetune` and `layer_decay` for the backbone's.
        wd: weight decay.
        finetune: the backbone learns at a tenth of the rate.
        layer_decay: the last of the backbone's layers learns at this part of its rate, the one before at this part of
            the last one's, and so on (arXiv:2106.08254). The layers are timm's own: of a ViT the embeddings are the
            first one, and its last norm belongs to its last block.
        no_decay_on_norms: no decay of what has one dimension (biases, norms, layer scales) and of what the network
            itself exempts (timm's `no_weight_decay`: position embeddings and tokens).

    Raises:
        UserError: unknown name, or a layer decay for a network that does not tell its layers.
    """
    groups = [
        group | {"params": [p for p in group["params"] if p.requires_grad]}
        for group in model.parameter_groups(lr, finetune)
    ]
    if layer_decay != 1:
        layers = _layers(model.backbone)
        groups = _split(groups, lambda group, p: {"lr": group["lr"] * layer_decay ** layers.get(p, 0)})
    if no_decay_on_norms:
        exempt = _exempt(model)
        groups = _split(groups, lambda group, p: {"weight_decay": 0.0 if p in exempt else wd})
    if name == "sgd":
        return SGD(groups, momentum=0.9, weight_decay=wd, nesterov=True)
    if name == "adamw":
        return AdamW(groups, weight_decay=wd)
    raise UserError(f"unknown optimizer '{name}': choose sgd or adamw")


def _layers(backbone: Any) -> dict[nn.Parameter, int]:
    """How many layers from the end each of the backbone's parameters lies; 1 is the backbone's last."""
    if not hasattr(backbone, "group_matcher"):
        raise UserError(f"--layer-decay: {type(backbone).__name__} does not tell its layers: leave it out")
    layers = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    after_last = max(layers.values()) + 1
    return {p: after_last - layers[name] for name, p in backbone.named_parameters()}


def _exempt(model: Any) -> set[nn.Parameter]:
    named: set[str] = getattr(model.backbone, "no_weight_decay", set)()
    own = {p for name, p in model.backbone.named_parameters() if name in named}
    return own | {p for p in model.parameters() if p.ndim <= 1}


def _split(groups: list[dict], options: Callable[[dict, nn.Parameter], dict]) -> list[dict]:
    """Each group in parts, in which all parameters have the same `options(group, parameter)`, in the old order."""
    parts: list[dict] = []
    for group in groups:
        by_options: dict[tuple, dict] = {}
        for p in group["params"]:
            own = options(group, p)
            by_options.setdefault(tuple(own.values()), group | own | {"params": []})["params"].append(p)
        parts += by_options.values()
    return parts


def schedule(
    optimizer: Optimizer, name: str, gamma: float, decay: float, total_steps: int, warm_up_steps: int = 0
) -> LambdaLR:
    """The schedule of `--lr-scheduler`; each parameter group keeps its own base rate.

    exp: lr * (1 + gamma * t) ** -decay          (supervised pretraining)
    cos: lr * max(0, cos(7 pi t / (16 T)))       (MoCo; FixMatch, arXiv:2001.07685)

    It is stepped after every optimizer step; the first step is t = 0. With a warm-up of W steps the rate first rises
    from 0 in a line, lr * s / W at step s, and what follows is the schedule for the rest: t = s - W, and T less by W
    (as USB, arXiv:2208.07204, has it).

    Args:
        gamma, decay: of `exp`.
        total_steps: T of `cos`, with the warm-up.
        warm_up_steps: W.
    """
    rest = total_steps - warm_up_steps
    schedules = {
        "exp": lambda t: (1 + gamma * t) ** -decay,
        "cos": lambda t: max(0.0, math.cos(7 * math.pi * t / (16 * rest))),
    }
    if name not in schedules:
        raise UserError(f"unknown schedule '{name}': choose exp or cos")
    factor = schedules[name]
    return LambdaLR(optimizer, lambda s: s / warm_up_steps if s < warm_up_steps else factor(s - warm_up_steps))
