"""Any method's training on a network of a few hundred weights: built as its script does, and stepped by its script."""

import copy
import importlib
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from common.loading.loaders import Batch
from common.networks.classifier import ImageClassifier
from common.system import seeding

LABELED_ALONE = ("erm",)
SUPERVISED_STRONG = (
    *("pseudo_label", "pi_model", "mean_teacher", "uda", "fixmatch", "flexmatch", "debiasmatch", "dst"),
    *("freematch", "softmatch", "noisy_student", "adamatch"),
    "vat",
)
WITH_PROJECTOR = ("comatch", "simmatch")
MIXED = ("mixmatch", "remixmatch")
METHODS = (*LABELED_ALONE, *SUPERVISED_STRONG, "self_tuning", *WITH_PROJECTOR, *MIXED)
CLASSES, IMAGES = 3, 20  # of each set, for the banks
SIZE = 8  # of a batch


class Passes(list):
    """What went through backbones, of one network and of the copies made of it."""

    def __deepcopy__(self, memo):
        return self


class Backbone(nn.Module):
    """Images [B, 3, 4, 4] -> features [B, 5]; it notes each pass."""

    feature_dim = 5

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.passes, self.name = Passes(), "model"

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(SimpleNamespace(x=x, name=self.name, training=self.training, grad=torch.is_grad_enabled()))
        return self.net(x)


def arguments(method: str, *flags: str):
    """As the command line gives them, for Digits."""
    return importlib.import_module(method).parse_args(["data", "-d", "Digits", *flags])


def small_flags(method: str) -> list[str]:
    """Widths to go with the small backbone."""
    own = {"self_tuning": "--K 4 --projection-dim 6"} | dict.fromkeys(WITH_PROJECTOR, "--projection-dim 6")
    return ["--bottleneck-dim", "8", *own.get(method, "").split()]


def build(method: str, args, dropout: float = 0.5, device: str = "cpu") -> SimpleNamespace:
    """The script's network with its optimizer, and its method's own `state`; always from the same weights.

    Predictions of different confidence are wanted, so the weights of bottleneck and heads are larger than usual.
    """
    script = importlib.import_module(method)
    torch.manual_seed(0)
    if method == "dst":
        model = script.DebiasedClassifier(Backbone(), CLASSES, args.bottleneck_dim, width=args.width)
    elif method == "self_tuning" or method in WITH_PROJECTOR:
        model = script.Encoder(Backbone(), CLASSES, args.bottleneck_dim, projection_dim=args.projection_dim)
    else:
        Network = script.RotationClassifier if method == "remixmatch" else ImageClassifier
        model = Network(Backbone(), CLASSES, args.bottleneck_dim)
    nn.init.normal_(model.bottleneck[0].weight)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "head" in name:
            module.weight.data.mul_(3)
        if isinstance(module, nn.Dropout):
            module.p = dropout
    model.to(device)
    state = own_state(script, method, model, args)
    for module in state:
        module.to(device)
    weights = dict.fromkeys(("pi_model", "mean_teacher", "vat", "mixmatch"), "trade_off_con")
    weights |= {"pseudo_label": "trade_off_self_training"}
    weight_u = [torch.tensor(getattr(args, weights[method]), device=device)] if method in weights else []
    weight_u += [torch.tensor(1.0, device=device)] if method == "remixmatch" else []  # the ramp of two weights
    optimizer = torch.optim.SGD(
        model.parameter_groups(args.lr, args.finetune), momentum=0.9, weight_decay=args.wd, nesterov=True
    )
    return SimpleNamespace(
        method=method, script=script, model=model, state=state, optimizer=optimizer, weight_u=weight_u
    )


def own_state(script, method: str, model: nn.Module, args) -> list[nn.Module]:
    """What `train_step` takes between the model and the optimizer."""
    if method == "mean_teacher":
        teacher = script.Teacher(model, args.alpha)
        teacher.network.backbone.name = "teacher"
        return [teacher]
    if method == "self_tuning":
        key_encoder = script.KeyEncoder(model, args.m)
        key_encoder.encoder.backbone.name = "key encoder"
        return [key_encoder, script.Queue(CLASSES, args.K, args.projection_dim)]
    if method == "adamatch":
        alignment = script.Alignment(CLASSES, args.window, args.momentum)
        return [alignment, seeding.SharedRandom(args.seed, "interpolation")]
    if method in WITH_PROJECTOR:
        return [script.Window(CLASSES, args.window), bank(script, method, args)]
    if method in MIXED:
        mixup = script.MixUp(args.seed, args.beta, args.one_lambda)
        return [*([script.Alignment(CLASSES, args.window, args.momentum)] if method == "remixmatch" else []), mixup]
    make = {
        "flexmatch": lambda: script.Curriculum(IMAGES, CLASSES),
        "debiasmatch": lambda: script.QHat(CLASSES, args.momentum),
        "freematch": lambda: script.Curriculum(CLASSES, args.momentum, args.max_tau),
        "softmatch": lambda: script.Gaussian(CLASSES, args.momentum, args.n_sigma),
        "noisy_student": lambda: script.PseudoLabels(IMAGES, CLASSES),
        "vat": lambda: seeding.SharedRandom(args.seed, "perturbation"),
    }
    state = [make[method]()] if method in make else []
    if method == "noisy_student":  # as if a teacher had made them
        state[0].logits.copy_(2 * torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(0)))
    return state


def bank(script, method: str, args) -> nn.Module:
    if method == "comatch":
        return script.Bank(args.bank_batches * 2 * SIZE, args.projection_dim, CLASSES)
    return script.Bank(torch.arange(IMAGES) % CLASSES, CLASSES, args.projection_dim, args.bank_momentum)


def batches(method: str, step: int = 0, size: int = SIZE) -> tuple[Batch, ...]:
    """The labeled and, where the method has one, the unlabeled batch of a step."""
    g = torch.Generator().manual_seed(step)
    views = [tuple(torch.randn(size, 3, 4, 4, generator=g) for _ in range(2)) for _ in range(2)]
    labels = [torch.randint(CLASSES, (size,), generator=g) for _ in range(2)]
    indices = [torch.randperm(IMAGES, generator=g)[:size] for _ in range(2)]
    if method in ("pseudo_label", "noisy_student", "vat"):
        views[1] = views[1][:1]
    if method in WITH_PROJECTOR:
        views[0] = views[0][:1]
    if method == "comatch":
        views[1] = *views[1], torch.randn(size, 3, 4, 4, generator=g)
    if method in MIXED:
        views[0] = views[0][:1]
    return tuple(map(Batch, views, labels, indices))[: 1 if method in LABELED_ALONE else 2]


def on_device(data: tuple[Batch, ...], device: str) -> tuple[Batch, ...]:
    return tuple(Batch(tuple(v.to(device) for v in b.views), b.labels.to(device), b.indices.to(device)) for b in data)


def train_step(setup: SimpleNamespace, args, *data: Batch) -> dict:
    """The script's own, in train mode, on `data` or on the batches of step 0."""
    setup.model.train()
    torch.manual_seed(1)
    data = data or batches(setup.method)
    return setup.script.train_step(setup.model, *setup.state, setup.optimizer, *data, *setup.weight_u, args)


class Epochs:
    """Stands in for a `Run`: epochs of the given lengths, each step with dropout masks of its own seed."""

    device = torch.device("cpu")
    at_epoch_start = True
    round = 1

    def __init__(self, method: str, lengths: tuple[int, ...]):
        self.method, self.lengths = method, lengths
        self.epoch, self.step, self.rows = 0, 0, []

    def steps(self, *loaders) -> Iterator[tuple[Batch, ...]]:
        for _ in range(self.lengths[self.epoch]):
            torch.manual_seed(100 + self.step)
            yield batches(self.method, self.step)
            self.step += 1

    def update(self, metrics: dict) -> None:
        self.rows.append(metrics)

    def train(self, setup: SimpleNamespace, args, scheduler) -> list[dict]:
        """All epochs, by the script's `train_one_epoch`; gives each step's metrics."""
        loaders = [None] * len(batches(self.method))
        for epoch in range(len(self.lengths)):
            self.epoch = epoch
            setup.script.train_one_epoch(self, *loaders, setup.model, *setup.state, setup.optimizer, scheduler, args)
        return self.rows


def losses_of(method: str, args, epoch: int = 0, step: int = 0) -> dict[str, float]:
    """The losses that the script's `train_one_epoch` reports of one step, which is the run's `step`-th."""
    setup, run = build(method, args), Epochs(method, (1,) * (epoch + 1))
    run.epoch, run.step = epoch, step
    scheduler = torch.optim.lr_scheduler.LambdaLR(setup.optimizer, lambda t: 1)
    loaders = [None] * len(batches(method))
    setup.script.train_one_epoch(run, *loaders, setup.model, *setup.state, setup.optimizer, scheduler, args)
    (row,) = run.rows
    return {name: value.item() for name, value in row.items() if name.startswith("loss")}


def everything(setup: SimpleNamespace) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, of the method's own state, too."""
    modules = nn.ModuleList([setup.model, *setup.state])
    return copy.deepcopy(dict(modules.state_dict()))
