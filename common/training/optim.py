"""The optimizer with its parameter groups, and the two learning-rate schedules."""

import math
from collections.abc import Callable
from fnmatch import fnmatch
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
    """The optimizer that `--optimizer` names, for all parameters of a model that need gradients.

    sgd: Nesterov momentum of 0.9; weight decay is part of the gradient
    adamw: betas 0.9 and 0.999; weight decay is decoupled from the gradient (arXiv:1711.05101)

    Args:
        name: `sgd` or `adamw`.
        model: has a `backbone`, and `parameter_groups(lr, finetune)`, each group with its rate.
        lr: learning rate of the new layers; see `finetune` and `layer_decay` for the backbone's.
        wd: weight decay.
        finetune: the backbone learns at a tenth of the rate.
        layer_decay: each of the backbone's layers learns at this fraction of the next one's rate; the last layer at
            this fraction of the backbone's (arXiv:2106.08254). Layers are counted as timm does: of a ViT the embeddings
            are the first one, and the final norm belongs to the last block.
        no_decay_on_norms: no weight decay on one-dimensional parameters (biases, norms, layer scales), nor on those
            that the network exempts (timm's `no_weight_decay`: position embeddings and tokens).

    Raises:
        UserError: the name is unknown, or the network does not tell its layers to `layer_decay`.
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
    """The layer of each of the backbone's parameters, counted from the end: 1 is the last layer."""
    if not hasattr(backbone, "group_matcher"):
        raise UserError(f"--layer-decay: {type(backbone).__name__} does not tell its layers: leave it out")
    layers = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    after_last = max(layers.values()) + 1
    return {p: after_last - layers[name] for name, p in backbone.named_parameters()}


def _exempt(model: Any) -> set[nn.Parameter]:
    named: set[str] = getattr(model.backbone, "no_weight_decay", set)()
    own = {p for name, p in model.backbone.named_parameters() if any(fnmatch(name, pattern) for pattern in named)}
    return own | {p for p in model.parameters() if p.ndim <= 1}


def _split(groups: list[dict], options: Callable[[dict, nn.Parameter], dict]) -> list[dict]:
    """Split each group so that all parameters of a part have the same `options(group, parameter)`. Keeps the order."""
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

    exp: lr * (1 + gamma * t) ** -decay          (in the published table from supervised weights)
    cos: lr * max(0, cos(7 pi t / (16 T)))       (there from MoCo's; FixMatch, arXiv:2001.07685)

    Step it after every optimizer step; the first step is t = 0. With a warm-up of W steps, the rate first rises
    linearly from 0: lr * s / W at step s. The schedule then applies to the rest, t = s - W, with T smaller by W, as in
    USB (arXiv:2208.07204).

    Args:
        optimizer: whose rates are scheduled.
        name: `exp` or `cos`.
        gamma, decay: of `exp`.
        total_steps: T of `cos`, including the warm-up.
        warm_up_steps: W.

    Raises:
        UserError: the name is unknown.
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
