"""Wide ResNets for 32-pixel images, which timm lacks, registered with timm so that `-a` finds them.

Other programs import this file to load exported networks: `import common.wide_resnet` registers them with timm, as
`export.py` and docs/own_images.md say. So the file must stay here, need only torch and timm, and keep the names of its
networks and tensors.

Paper: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146.
"""

import functools
from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """The paper's basic block: BN-ReLU-conv twice, pre-activation. If shapes differ, the shortcut is a 1 x 1 conv.

    Args:
        leaky: see `WideResNet`.
        raw: both branches take the input without norm and activation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, leaky: bool = False, raw: bool = False):
        super().__init__()
        self.activation = activation(leaky)
        self.bn1 = None if raw else norm(in_channels, leaky)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=leaky)
        self.bn2 = norm(out_channels, leaky)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=leaky)
        same = in_channels == out_channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=leaky)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.bn1 is None else self.activation(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return shortcut + self.conv2(self.activation(self.bn2(self.conv1(out))))


def activation(leaky: bool) -> Callable[[Tensor], Tensor]:
    """ReLU, or for `leaky` one of slope 0.1."""
    return functools.partial(F.leaky_relu, negative_slope=0.1) if leaky else F.relu


def norm(channels: int, leaky: bool) -> nn.BatchNorm2d:
    """PyTorch's default BatchNorm, or for `leaky` one with slow running statistics."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=1e-3) if leaky else nn.BatchNorm2d(channels)


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Args:
        depth: 6n + 4.
        width: the factor k of WRN-depth-k.
        num_classes: number of logits; 0 returns the pooled features [B, 64 * width] instead.
        in_chans: channels of the images.
        stem_stride: of the first convolution. 2 halves the resolution everywhere, for a quarter of the work.
        strides: of the stages. A fourth stride adds a stage with 128 times `width` channels.
        leaky: the form of semi-supervised training from scratch, as in TorchSSL, whose figures we compare with: leaky
            ReLU of slope 0.1, biases in the convolutions, BatchNorm with eps 0.001 and momentum 0.001. The first block
            of every stage but the first takes its input raw. TorchSSL's code also has norms there that it does not
            use; they are left out.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        stem_stride: int = 1,
        strides: tuple[int, ...] = (1, 2, 2),
        leaky: bool = False,
    ):
        super().__init__()
        channels = [16, *(16 * width * 2**s for s in range(len(strides)))]
        self.num_features = self.head_hidden_size = channels[-1]
        self.pretrained_cfg = {"input_size": (3, 32, 32), "classifier": "fc"}  # like timm's models
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, stem_stride, padding=1, bias=leaky)
        self.layers = nn.Sequential(
            *(
                WideBlock(
                    channels[s] if b == 0 else channels[s + 1],
                    channels[s + 1],
                    stride=strides[s] if b == 0 else 1,
                    leaky=leaky,
                    raw=leaky and s > 0 and b == 0,
                )
                for s in range(len(strides))
                for b in range((depth - 4) // 6)
            )
        )
        self.bn = norm(channels[-1], leaky)
        self.activation = activation(leaky)
        self.fc = nn.Linear(channels[-1], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn(self.layers(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


@register_model
def wrn_28_2(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-28-2, 1.5 million parameters."""
    return WideResNet(28, 2, num_classes, in_chans)


@register_model
def wrn_10_1(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-10-1, 78 thousand parameters."""
    return WideResNet(10, 1, num_classes, in_chans)


@register_model
def wrn_10_1_half(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-10-1 at half the resolution: small enough to train on a laptop's CPU in a minute."""
    return WideResNet(10, 1, num_classes, in_chans, stem_stride=2)


@register_model
def wrn_28_8(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-28-8, 23 million parameters."""
    return WideResNet(28, 8, num_classes, in_chans)


@register_model
def wrn_28_2_leaky(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-28-2 as in semi-supervised training on CIFAR-10 and SVHN, 1.5 million parameters."""
    return WideResNet(28, 2, num_classes, in_chans, leaky=True)


@register_model
def wrn_28_8_leaky(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-28-8 as in semi-supervised training on CIFAR-100, 23 million parameters."""
    return WideResNet(28, 8, num_classes, in_chans, leaky=True)


@register_model
def wrn_37_2_leaky(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any) -> WideResNet:
    """WRN-28-2 with a fourth stage, for the 96 pixels of STL-10, 5.9 million parameters; known as WRN-37-2."""
    return WideResNet(28, 2, num_classes, in_chans, strides=(2, 2, 2, 2), leaky=True)


@register_model
def wrn_10_1_half_leaky(
    pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **options: Any
) -> WideResNet:
    """`wrn_10_1_half` with leaky ReLU, biases and slower BatchNorm, like the larger leaky networks."""
    return WideResNet(10, 1, num_classes, in_chans, stem_stride=2, leaky=True)
