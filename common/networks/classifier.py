"""The classifier that all methods train, and the passes of several views through it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from common.networks import batch_norm
from common.networks.backbone_files import TimmModel

PRECISIONS = ("float32", "tf32", "bf16")


@contextlib.contextmanager
def precision_of_its_own() -> Iterator[None]:
    """Within the block, a network may set TF32 for the whole process; afterwards it is as it was before."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        yield
    finally:
        matmul.allow_tf32 = before


class ImageClassifier(nn.Module):
    """backbone -> bottleneck -> head: images [B, 3, H, W] -> float32 logits [B, C].

    Args:
        backbone: images -> features [B, backbone.feature_dim].
        num_classes: C.
        bottleneck_dim: width of the bottleneck (Linear, BatchNorm, ReLU, Dropout 0.5); 0 for none.
        precision: one of `PRECISIONS`, for backbone and bottleneck. `bf16` is autocast to bfloat16. `tf32` lets CUDA's
            matrix products round their factors to 10 bits, as convolutions do by PyTorch's default. It is set for the
            whole process, since the backward pass runs outside of the network, and has no effect on a CPU. Weights,
            features and logits are float32 in all three.

    Attributes:
        feature_dim: dimensions of the features, which are the bottleneck's output.
    """

    def __init__(self, backbone: TimmModel, num_classes: int, bottleneck_dim: int = 1024, precision: str = "float32"):
        super().__init__()
        self.precision = precision
        if precision == "tf32":
            torch.backends.cuda.matmul.allow_tf32 = True
        self.backbone = backbone
        self.bottleneck = _bottleneck(backbone.feature_dim, bottleneck_dim) if bottleneck_dim else nn.Identity()
        self.feature_dim = bottleneck_dim or backbone.feature_dim
        self.head = nn.Linear(self.feature_dim, num_classes)
        self.to(memory_format=torch.channels_last)
        batch_norm.over_processes(self)

    def features(self, images: Tensor) -> Tensor:
        """The bottleneck's output [B, feature_dim], after dropout in train mode."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = self.bottleneck(self.backbone(images))
        return features.float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def parameter_groups(self, lr: float, finetune: bool) -> list[dict]:
        """Groups for the optimizer: with `finetune`, the backbone learns at a tenth of the rate."""
        return [
            {"params": self.backbone.parameters(), "lr": 0.1 * lr if finetune else lr},
            {"params": self.bottleneck.parameters(), "lr": lr},
            {"params": self.head.parameters(), "lr": lr},
        ]


def _bottleneck(in_dim: int, out_dim: int) -> nn.Sequential:
    linear = nn.Linear(in_dim, out_dim)
    nn.init.normal_(linear.weight, std=0.005)
    nn.init.constant_(linear.bias, 0.1)
    return nn.Sequential(linear, nn.BatchNorm1d(out_dim), nn.ReLU(), nn.Dropout(0.5))


def passes(model: Callable[[Tensor], Tensor], views: Sequence[Tensor], no_grad: Tensor, joint: bool) -> list[Tensor]:
    """The logits of several views: one forward pass for each, or one for all.

    In train mode every pass has BatchNorm statistics of its own. In a joint pass the views share them. So a gradient
    flows through the statistics from the logits of one view into the features of all.

    Args:
        model: [B, 3, H, W] -> [B, C]. With `model.features` in its place, features are returned: a method with a second
            head needs them.
        views: tensors [B_i, 3, H, W].
        no_grad: the view whose logits are targets; no gradient flows back from them. It is found among the views by
            identity (`is`): pass the same tensor object, not an equal one.
        joint: one pass for all views.

    Returns:
        For each view [B_i, C].

    Raises:
        ValueError: `no_grad` is none of the views.
    """
    if not any(x is no_grad for x in views):
        raise ValueError("no_grad is none of the views: pass the same tensor object")
    if joint:
        logits = model(torch.cat(list(views))).split([len(x) for x in views])
        return [each.detach() if x is no_grad else each for x, each in zip(views, logits, strict=True)]
    logits = []
    for x in views:
        with torch.set_grad_enabled(x is not no_grad):
            logits.append(model(x))
    return logits
