"""Start from the network of a finished run (`--init-from`), and train it further."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.datasets import class_names
from common.errors import UserError
from common.loading.augment import Normalizer
from common.networks import adapters, backbone_files
from common.system import checkpoint, processes

logger = logging.getLogger(__name__)
BACKBONE = "backbone."


def file(run: str) -> Path:
    """The file with a run's whole tested network: frozen weights included, and LoRA merged into them."""
    return Path(run) / "checkpoints" / "best.pth"


@processes.by_first
def read(run: str) -> "WarmStart":
    """Read the network of a finished run. All processes get the first one's.

    A training calls this twice: `build.images` compares the classes, `build.classifier` takes the weights. The second
    call costs half a second for a ViT-B, and saves handing the network from one to the other through every script.

    Raises:
        UserError: the folder holds no finished run, or its network is damaged.
    """
    if not os.path.isfile(os.path.join(run, "result.json")) or not os.path.isfile(file(run)):
        raise UserError(f"--init-from: '{run}' holds no finished run: run its command to the end, or name another")
    content = checkpoint.load(file(run))
    weights, classes, args = (content.get(key) for key in ("model", "classes", "args"))
    if (
        not isinstance(weights, dict)
        or not all(isinstance(name, str) and backbone_files.is_plain(weight) for name, weight in weights.items())
        or not isinstance(classes, list)
        or not isinstance(args, dict)
    ):
        raise UserError(f"--init-from: '{file(run)}' is not what a run wrote: name another run")
    return WarmStart(run, weights, classes, args, content.get("epoch"))


class WarmStart(NamedTuple):
    """The network of a finished run.

    Attributes:
        run: the run's folder.
        weights: of the tested network, under their names without adapters; see `adapters.Merged`.
        classes: the names of its outputs.
        flags: all arguments of the run.
        epoch: the epoch that the weights are from, counted from 1.
    """

    run: str
    weights: dict[str, Tensor]
    classes: list[str]
    flags: dict[str, Any]
    epoch: int | None

    def refuse_other_classes(self, classes: Sequence[str], root: str) -> None:
        """Raise a `UserError` if the run was trained for other classes than those of the images in `root`."""
        if self.classes != list(classes):
            raise UserError(
                f"--init-from: '{self.run}' was trained for other classes than '{root}' has "
                f"({class_names.first_difference(self.classes, classes)}): give both the same, or take its backbone "
                f"alone with --pretrained-backbone '{file(self.run)}'"
            )

    def refuse_other_network(self, arch: str, adapter: int | None) -> None:
        """Raise a `UserError` if the run has another backbone, or AdaptFormers that this network lacks."""
        own, width = self.flags.get("arch"), self.flags.get("adapter")
        if own != arch:
            raise UserError(f"--init-from: '{self.run}' has --arch {own}, not {arch}: give that, or name another run")
        if width not in (None, adapter):
            raise UserError(
                f"--init-from: '{self.run}' has --adapter {width}, which cannot be merged into a backbone: give it "
                "here, too, or name another run"
            )

    def warn_of_other_statistics(self, normalizer: Normalizer) -> None:
        """Log a warning if the run normalised its images with other statistics."""
        own = [self.flags.get(flag) for flag in ("norm_mean", "norm_std")]
        if own != [list(normalizer.mean), list(normalizer.std)]:
            logger.warning(
                f"the images of '{self.run}' were normalised otherwise, with mean and deviation {own[0]} "
                f"{own[1]}: see --norm-mean and --norm-std"
            )

    def fill_backbone(self, backbone: nn.Module) -> None:
        """Load the backbone's weights, before adapters are inserted.

        Raises:
            UserError: they do not fit.
        """
        own = {name.removeprefix(BACKBONE): x for name, x in self.weights.items() if name.startswith(BACKBONE)}
        if self.flags.get("adapter"):  # the AdaptFormers' weights are loaded by `fill`, once they are inserted
            wanted = backbone.state_dict()
            own = {name: weight for name, weight in own.items() if name in wanted}
        backbone_files.fill(backbone, own, file(self.run))

    @torch.no_grad()
    def fill(self, network: nn.Module) -> None:
        """Load all other parts (head, bottleneck, ...) that fit as a whole. The others begin anew, and are logged.

        A part without weights, such as a counter, always begins anew.
        """
        # The state of a backbone with adapters holds their weights and a fingerprint, which is no tensor.
        backbone = "adapters" if adapters.are_in(network) else BACKBONE
        with_weights = {name.partition(".")[0] for name, _ in network.named_parameters()}
        own: dict[str, dict[str, Tensor]] = {}
        for name, tensor in network.state_dict().items():
            first = name.partition(".")[0]
            if isinstance(tensor, Tensor) and first in with_weights:
                own.setdefault(backbone if name.startswith(BACKBONE) else first, {})[name] = tensor
        anew = []
        for part, tensors in own.items():
            if all(name in self.weights and self.weights[name].shape == x.shape for name, x in tensors.items()):
                for name, tensor in tensors.items():
                    tensor.copy_(self.weights[name])
            elif part != BACKBONE:
                anew.append(part)
        more = f"; {', '.join(anew)} begin{'s' if len(anew) == 1 else ''} anew" if anew else ""
        logger.info(f"begins with the weights of '{self.run}', epoch {self.epoch}{more}")
