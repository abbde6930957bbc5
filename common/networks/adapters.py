"""Small trained parts inside a frozen backbone: LoRA, through the library peft, and AdaptFormer.

Frozen weights become buffers that no `state_dict` holds. So the optimizer, running averages and checkpoints see only
what is trained, and need not know of adapters.
"""

import hashlib
import itertools
import logging
import math
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from common.system import memory

logger = logging.getLogger(__name__)

REMEDY = "choose a ViT such as vit_small_patch16_224, or leave it out"


def insert(backbone: nn.Module, image_size: int, lora: int | None = None, adapter: int | None = None) -> None:
    """Freeze the backbone, and put adapters into it. Without `lora` and `adapter`, do nothing.

    Adapters begin without effect: the network's outputs are the same bits as before. Frozen BatchNorms stay in eval
    mode, so their statistics are frozen, too. The adapters' weights are drawn from the global generator.

    Args:
        backbone: what `backbones.backbone` returned; changed in place.
        image_size: side of the images in pixels.
        lora: rank of LoRA (arXiv:2106.09685) on the joint query, key and value layer of every block. Its output is not
            scaled (alpha equals the rank), and its input has a dropout of 0.1.
        adapter: width of the `AdaptFormer` next to every block's MLP.

    Raises:
        UserError: LoRA without the package peft; or adapters do not fit into the network, or would have no effect.
    """
    if not lora and not adapter:
        return
    flag, name = "--lora" if lora else "--adapter", type(backbone).__name__
    generator, was_training = torch.Generator().manual_seed(0), backbone.training
    images = torch.randn(2, 3, image_size, image_size, generator=generator)
    with torch.no_grad():
        before = backbone.eval()(images)
    names, fingerprint = list(backbone.state_dict()), _fingerprint(backbone)
    adapters = _add_lora(backbone, lora) if lora else _add_adaptformer(backbone, adapter or 0)
    if not adapters:
        raise UserError(f"{flag}: a {name} has no place for adapters: {REMEDY}")
    _freeze(backbone, adapters)
    if not _have_effect(backbone, adapters, images, before, torch.randn(before.shape, generator=generator)):
        raise UserError(f"{flag}: adapters have no effect in a {name}, or the wrong one: {REMEDY}")
    backbone.inserted = Inserted(names, fingerprint, adapters)
    backbone.train(was_training)
    logger.info(
        f"{flag} {lora or adapter}: {sum(p.numel() for p in backbone.parameters()):,} of the backbone's weights "
        f"are trained, {sum(b.numel() for b in backbone.buffers()):,} are frozen"
    )


def are_in(network: nn.Module) -> bool:
    """Whether the network has adapters. If so, its backbone's `state_dict` holds their weights alone."""
    return any(isinstance(module, Inserted) for module in network.modules())


def frozen_weights(network: nn.Module) -> list[Tensor]:
    """The frozen weights and statistics of a backbone with adapters, which training never changes; none without."""
    adapted = [m for m in network.modules() if isinstance(getattr(m, "inserted", None), Inserted)]
    return [buffer for backbone in adapted for buffer in backbone.buffers()]


def _add_lora(backbone: nn.Module, rank: int) -> dict[str, nn.Module]:
    try:
        import peft  # noqa: PLC0415 (optional, and takes seconds)
    except ImportError:
        raise UserError("--lora needs the package peft: run pip install peft, or take --adapter") from None
    targets = [name for name, m in backbone.named_modules() if name.endswith(".qkv") and isinstance(m, nn.Linear)]
    if targets:
        config = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.1, target_modules=targets)
        peft.inject_adapter_in_model(config, backbone)
    return {name: backbone.get_submodule(name) for name in targets}


def _add_adaptformer(backbone: nn.Module, width: int) -> dict[str, nn.Module]:
    added: dict[str, nn.Module] = {}
    for name, block in list(backbone.named_modules()):
        norm, mlp = getattr(block, "norm2", None), getattr(block, "mlp", None)
        shape: Sequence[int] = getattr(norm, "normalized_shape", ())
        if isinstance(mlp, nn.Module) and isinstance(norm, nn.Module) and len(shape) == 1:
            added[f"{name}.mlp"] = block.mlp = AdaptFormer(norm, mlp, shape[0], width)
            block.norm2 = nn.Identity()  # the adapter applies it
    return added


class AdaptFormer(nn.Module):
    """A block's norm and MLP with a parallel bottleneck: x -> MLP(norm(x)) + 0.1 up(dropout(relu(down(x)))).

    AdaptFormer (arXiv:2205.13535), as in its authors' code: the bottleneck reads the tokens before the norm, and has a
    dropout of 0.1. Its output begins at zero.

    Args:
        norm, mlp: of the block.
        dim: width of the tokens [..., dim].
        width: width of the bottleneck.
    """

    def __init__(self, norm: nn.Module, mlp: nn.Module, dim: int, width: int):
        super().__init__()
        self.norm, self.mlp = norm, mlp
        self.down, self.up, self.dropout = nn.Linear(dim, width), nn.Linear(width, dim), nn.Dropout(0.1)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(x)) + 0.1 * self.up(self.dropout(self.down(x).relu()))


def _trained_parts(adapter: Any) -> list[nn.Module]:
    """The trained layers of an adapter. The weights of the last one begin at zero."""
    if isinstance(adapter, AdaptFormer):
        return [adapter.down, adapter.up]
    return [adapter.lora_A["default"], adapter.lora_B["default"]]


def _freeze(backbone: nn.Module, adapters: dict[str, nn.Module]) -> None:
    trained = {part for adapter in adapters.values() for part in _trained_parts(adapter)}
    for module in set(backbone.modules()) - trained:
        for name, parameter in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
        for name, buffer in [*module.named_buffers(recurse=False)]:
            module.register_buffer(name, buffer, persistent=False)
        if isinstance(module, _BatchNorm):
            module.eval().train = types.MethodType(_stay_in_eval, module)  # type: ignore[method-assign]  # a bound method: a copy gets its own


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replaces a module's `train`: it stays in eval mode."""
    return module


def _have_effect(
    backbone: nn.Module, adapters: dict[str, nn.Module], images: Tensor, before: Tensor, direction: Tensor
) -> bool:
    """Whether adapters leave the outputs unchanged for now, and can change them once they are trained.

    They cannot in networks that read a layer's weights directly, past the adapter around it, or that place their norms
    elsewhere.

    Args:
        adapters: name -> module.
        images: [2, 3, image_size, image_size].
        before: the outputs without adapters.
        direction: random, of the outputs' shape. The outputs' product with it must have a gradient in every adapter.
    """
    try:
        after = backbone(images)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # for example, tokens in another layout
        if memory.shortage(error):
            raise
        return False
    if not torch.equal(before, after) or not after.requires_grad:
        return False
    last: list[Any] = [_trained_parts(adapter)[-1].weight for adapter in adapters.values()]
    gradients = torch.autograd.grad((after * direction).sum(), last, allow_unused=True)
    return all(gradient is not None and gradient.any() for gradient in gradients)


def _fingerprint(backbone: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()


class Inserted(nn.Module):
    """A backbone's record of its adapters. In a checkpoint its fingerprint stands in for the frozen weights.

    So the `state_dict` of a network with adapters has one value that is a string, not a tensor. Code that walks through
    a state must skip it.

    Args:
        names: names of the backbone's state without adapters.
        fingerprint: SHA-256 of that state.
        adapters: name -> module.
    """

    def __init__(self, names: list[str], fingerprint: str, adapters: dict[str, nn.Module]):
        super().__init__()
        self.names, self.fingerprint = names, fingerprint
        self.lora = [name for name, adapter in adapters.items() if not isinstance(adapter, AdaptFormer)]
        self.adaptformer = [name for name, adapter in adapters.items() if isinstance(adapter, AdaptFormer)]

    def get_extra_state(self) -> str:
        return self.fingerprint

    def set_extra_state(self, state: str) -> None:
        if state != self.fingerprint:
            raise UserError(
                "the adapters of the checkpoint were trained in another frozen backbone than this one: give --scratch "
                "or --pretrained-backbone as the run had it, and the same file"
            )

    def names_here(self) -> dict[str, str]:
        """The names of the whole state, see `Merged` -> the same tensors' names in the backbone with adapters."""
        names = {name: self._name_here(name) for name in self.names}
        for adapter in self.adaptformer:
            own = [f"{adapter}.{layer}.{kind}" for layer in ("down", "up") for kind in ("weight", "bias")]
            names |= dict(zip(own, own, strict=True))
        return names

    def _name_here(self, name: str) -> str:
        """The name of a tensor of the plain backbone now that adapters surround it: longer by their names."""
        moved = {f"{layer}.": f"{layer}.base_layer." for layer in self.lora}
        for mlp in self.adaptformer:
            moved |= {f"{mlp.removesuffix('mlp')}norm2.": f"{mlp}.norm.", f"{mlp}.": f"{mlp}.mlp."}
        for before, here in moved.items():
            if name.startswith(before):
                return here + name.removeprefix(before)
        return name


class Merged:
    """The whole state of a network, frozen weights included, under the names that it has without adapters.

    LoRA is merged into the weights that it changes. An AdaptFormer cannot be merged: its weights are added under names
    of their own. For a network without adapters, the state is its own `state_dict`.

    Args:
        network: with or without adapters in its backbone.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.inserted = {
            name.removesuffix("inserted"): m for name, m in network.named_modules() if isinstance(m, Inserted)
        }

    def _tensors(self) -> dict[str, Tensor]:
        """The network's own tensors under the state's names, without those of LoRA."""
        own = dict(itertools.chain(self.network.named_parameters(), self.network.named_buffers()))
        tensors = dict(self.network.state_dict())
        for prefix, inserted in self.inserted.items():
            backbone = {prefix + name: own[prefix + here].detach() for name, here in inserted.names_here().items()}
            tensors = backbone | {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
        return tensors

    def _lora(self) -> dict[str, Any]:
        """The names of the weights that LoRA changes -> the LoRA layers."""
        layers = [prefix + name for prefix, inserted in self.inserted.items() for name in inserted.lora]
        return {f"{name}.weight": self.network.get_submodule(name) for name in layers}

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        state = self._tensors()
        for name, layer in self._lora().items():
            state[name] = state[name] + layer.get_delta_weight("default")
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a whole state, strictly. LoRA's part is then in the frozen weights, and LoRA itself is set to add zero.

        Raises:
            ValueError: names or shapes differ.
        """
        if not self.inserted:
            self.network.load_state_dict(state)
            return
        tensors = self._tensors()
        for name in tensors.keys() | state.keys():
            if name not in tensors or name not in state or tensors[name].shape != state[name].shape:
                raise ValueError(f"{name} is missing, surplus, or of another shape")
        for name, tensor in tensors.items():
            tensor.copy_(state[name])
        for layer in self._lora().values():
            layer.lora_B["default"].weight.zero_()
