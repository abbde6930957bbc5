"""Wide ResNets for 32-pixel images, which timm lacks, registered with timm so that `-a` finds them.

Paper: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146.
"""

from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """The paper's basic block: BN-ReLU-conv twice, pre-activation; the shortcut is a 1 x 1 conv where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(out))))


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    Args:
        depth: 6n + 4.
        width: the factor k of WRN-depth-k.
        num_classes: 0 gives the pooled features [B, 64 * width] in place of logits.
        stem_stride: of the first convolution; 2 halves the resolution everywhere, for a quarter of the work.
    """

    def __init__(self, depth: int, width: int, num_classes: int = 1000, in_chans: int = 3, stem_stride: int = 1):
        super().__init__()
        self.num_features = self.head_hidden_size = 64 * width
        self.pretrained_cfg = {"input_size": (3, 32, 32), "classifier": "fc"}  # as timm's own models have
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, stem_stride, padding=1, bias=False)
        self.layers = nn.Sequential(
            *(
                WideBlock(
                    channels[s] if b == 0 else channels[s + 1], channels[s + 1], stride=2 if s > 0 and b == 0 else 1
                )
                for s in range(3)
                for b in range((depth - 4) // 6)
            )
        )
        self.bn = nn.BatchNorm2d(channels[3])
        self.fc = nn.Linear(channels[3], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.layers(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


@register_model
def wrn_28_2(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **timm_options) -> WideResNet:
    """WRN-28-2, 1.5 million parameters: the network of FixMatch's CIFAR-10 experiments."""
    return WideResNet(28, 2, num_classes, in_chans)


@register_model
def wrn_10_1(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **timm_options) -> WideResNet:
    """WRN-10-1, 78 thousand parameters."""
    return WideResNet(10, 1, num_classes, in_chans)


@register_model
def wrn_10_1_half(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **timm_options) -> WideResNet:
    """WRN-10-1 at half the resolution: small enough to train on a laptop's CPU in a minute."""
    return WideResNet(10, 1, num_classes, in_chans, stem_stride=2)
