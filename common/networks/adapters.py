"""Small trained parts inside a frozen backbone: LoRA, through the library peft, and AdaptFormer.

What is frozen is no parameter any more but a buffer, and one that no `state_dict` holds. So neither an optimizer, nor a
running average of the weights, nor a checkpoint needs to know of it: they see what is trained, and a copy of the
network carries the rest along.
"""

import hashlib
import itertools
import logging
import math
import types

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError

logger = logging.getLogger(__name__)

REMEDY = "choose a ViT such as vit_small_patch16_224, or leave it out"


def insert(backbone: nn.Module, image_size: int, lora: int | None = None, adapter: int | None = None) -> None:
    """Freeze the backbone, and put adapters into it; where neither is asked for, nothing is changed.

    Adapters begin without effect: the network's outputs are the same bits as before. A frozen BatchNorm stays in eval
    mode, so that its statistics stay, too. Weights are drawn from the global generator.

    Args:
        backbone: of `backbones.backbone`; changed in place.
        image_size: side of the images in pixels.
        lora: the rank of LoRA (arXiv:2106.09685) on the joint query, key and value of every block. Its output is not
            scaled (alpha is the rank), and its input has a dropout of 0.1.
        adapter: the width of `AdaptFormer` beside every block's MLP.

    Raises:
        UserError: LoRA without the package peft; or the network has no place for adapters, or they would silently be
            without effect there.
    """
    if not lora and not adapter:
        return
    flag, name = "--lora" if lora else "--adapter", type(backbone).__name__
    generator, was_training = torch.Generator().manual_seed(0), backbone.training
    images = torch.randn(2, 3, image_size, image_size, generator=generator)
    with torch.no_grad():
        before = backbone.eval()(images)
    names, fingerprint = list(backbone.state_dict()), _sha256(backbone)
    adapters = _add_lora(backbone, lora) if lora else _add_adaptformer(backbone, adapter)
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
    added = {}
    for name, block in list(backbone.named_modules()):
        norm, mlp = getattr(block, "norm2", None), getattr(block, "mlp", None)
        if isinstance(mlp, nn.Module) and len(getattr(norm, "normalized_shape", ())) == 1:
            added[f"{name}.mlp"] = block.mlp = AdaptFormer(norm, mlp, *norm.normalized_shape, width)
            block.norm2 = nn.Identity()  # is within the adapter now
    return added


class AdaptFormer(nn.Module):
    """A block's norm and MLP with a bottleneck beside them: x -> MLP(norm(x)) + 0.1 up(dropout(relu(down(x)))).

    AdaptFormer (arXiv:2205.13535), in the form of its authors' code: the bottleneck reads the tokens as they come, not
    the norm's output, and has a dropout of 0.1. It begins at zero.

    Args:
        norm, mlp: of the block.
        dim: width of the tokens [..., dim].
        width: of the bottleneck.
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


def _parts(adapter: nn.Module) -> list[nn.Module]:
    """What is trained of an adapter, the last part last."""
    if isinstance(adapter, AdaptFormer):
        return [adapter.down, adapter.up]
    return [adapter.lora_A["default"], adapter.lora_B["default"]]


def _freeze(backbone: nn.Module, adapters: dict[str, nn.Module]) -> None:
    trained = {part for adapter in adapters.values() for part in _parts(adapter)}
    for module in set(backbone.modules()) - trained:
        for name, parameter in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
        for name, buffer in [*module.named_buffers(recurse=False)]:
            module.register_buffer(name, buffer, persistent=False)
        if isinstance(module, _BatchNorm):
            module.eval().train = types.MethodType(_stay, module)  # a method, so that a copy of the module has its own


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _have_effect(
    backbone: nn.Module, adapters: dict[str, nn.Module], images: Tensor, before: Tensor, direction: Tensor
) -> bool:
    """Whether the outputs are what they were `before`, and would change in some `direction` with every adapter.

    Some networks read a layer's weights past the adapter around it, or have their norms elsewhere.
    """
    try:
        after = backbone(images)
    except (RuntimeError, ValueError, TypeError, AttributeError):  # tokens that are laid out in another way
        return False
    if not torch.equal(before, after) or not after.requires_grad:
        return False
    ends = [_parts(adapter)[-1].weight for adapter in adapters.values()]
    gradients = torch.autograd.grad((after * direction).sum(), ends, allow_unused=True)
    return all(gradient is not None and gradient.any() for gradient in gradients)


def _sha256(backbone: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()


class Inserted(nn.Module):
    """What a backbone knows of its adapters; in a checkpoint, the fingerprint of what was frozen.

    So the `state_dict` of a network with adapters has one value that is no tensor but a string. Whoever walks through
    a state has to skip it.

    Args:
        names: of the backbone's state without adapters.
        fingerprint: of that state.
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

    def places(self) -> dict[str, str]:
        """The names of a state without LoRA -> those of the tensors here."""
        moved = {f"{name}.": f"{name}.base_layer." for name in self.lora}
        for name in self.adaptformer:
            moved |= {f"{name.removesuffix('mlp')}norm2.": f"{name}.norm.", f"{name}.": f"{name}.mlp."}
        places = {name: name for name in self.names}
        for name, (before, after) in itertools.product(self.names, moved.items()):
            if name.startswith(before):
                places[name] = after + name.removeprefix(before)
        own = [
            f"{name}.{part}.{kind}"
            for name in self.adaptformer
            for part in ("down", "up")
            for kind in ("weight", "bias")
        ]
        return places | {name: name for name in own}


class Merged:
    """A network's state with nothing left out, under the names that it has without adapters.

    LoRA is merged into the weights that it changes; an AdaptFormer, which cannot be, keeps names of its own beside
    timm's. The state of a network without adapters is its own `state_dict`.

    Args:
        network: may hold a backbone that `insert` has changed.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.inserted = {
            name.removesuffix("inserted"): m for name, m in network.named_modules() if isinstance(m, Inserted)
        }

    def _places(self) -> dict[str, Tensor]:
        """The names that the state has -> the tensors of the network, LoRA's apart from the weights that it changes."""
        places = dict(self.network.state_dict())
        tensors = dict(itertools.chain(self.network.named_parameters(), self.network.named_buffers()))
        for prefix, inserted in self.inserted.items():
            whole = {prefix + name: tensors[prefix + place].detach() for name, place in inserted.places().items()}
            places = whole | {name: tensor for name, tensor in places.items() if not name.startswith(prefix)}
        return places

    def _lora(self) -> dict[str, nn.Module]:
        """The names of the weights that LoRA changes -> its layers."""
        layers = [prefix + name for prefix, inserted in self.inserted.items() for name in inserted.lora]
        return {f"{name}.weight": self.network.get_submodule(name) for name in layers}

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        state = self._places()
        for name, layer in self._lora().items():
            state[name] = state[name] + layer.get_delta_weight("default")
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Strictly. What LoRA added is within the frozen weights afterwards, and its own part is zero.

        Raises:
            ValueError: names or shapes differ.
        """
        if not self.inserted:
            self.network.load_state_dict(state)
            return
        places = self._places()
        for name in places.keys() | state.keys():
            if name not in places or name not in state or places[name].shape != state[name].shape:
                raise ValueError(f"{name} is missing, surplus, or of another shape")
        for name, tensor in places.items():
            tensor.copy_(state[name])
        for layer in self._lora().values():
            layer.lora_B["default"].weight.zero_()
