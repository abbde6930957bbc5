"""Five steps of every script, in two epochs, against the literal transcription: metrics, weights, buffers and state."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

from common.training import optim
from tests.helpers import steps, transcription

LENGTHS = (3, 2)
SMALL = "--bottleneck-dim 6 --lr 0.05 --finetune --wd 0.01"
EXP = f"{SMALL} --lr-gamma 0.5"
CON = f"{EXP} --trade-off-con 2 --warm-up-epochs 2"
RISING = f"{EXP} --warm-up-epochs 1 --iters-per-epoch 4"  # over the first 4 of the 5 steps
VAT = f"{RISING} --trade-off-con 2 --trade-off-entropy 0.5 --eps 2"
COMATCH = f"{EXP} --projection-dim 4 --window 3 --T 0.5 --smoothing 0.6 --bank-batches 2 --graph-threshold 0.3"
CASES = {
    "erm": ("erm", EXP),
    "pseudo_label": ("pseudo_label", f"{EXP} --threshold 0.7"),
    "pseudo_label, labeled statistics": ("pseudo_label", f"{EXP} --threshold 0.7 --labeled-statistics"),
    "pi_model": ("pi_model", CON),
    "pi_model, labeled statistics": ("pi_model", f"{CON} --labeled-statistics"),
    "pi_model, one-sided": ("pi_model", f"{CON} --one-sided"),
    "mean_teacher": ("mean_teacher", CON),
    "mean_teacher, alpha 0.6": ("mean_teacher", f"{CON} --alpha 0.6"),
    "mean_teacher, labeled statistics": ("mean_teacher", f"{CON} --labeled-statistics"),
    "uda": ("uda", f"{EXP} --threshold 0.7"),
    "uda, paper": ("uda", f"{EXP} --threshold 0.7 --uda-variant paper --T 0.4"),
    "fixmatch": ("fixmatch", f"{EXP} --threshold 0.7"),
    "flexmatch": ("flexmatch", f"{EXP} --threshold 0.7"),
    "flexmatch, warm-up": ("flexmatch", f"{EXP} --threshold 0.7 --warmup"),
    "debiasmatch": ("debiasmatch", f"{EXP} --threshold 0.7 --momentum 0.7 --tau 1.5"),
    "debiasmatch, persistent": ("debiasmatch", f"{EXP} --threshold 0.7 --momentum 0.7 --persistent-q-hat"),
    "freematch": ("freematch", f"{EXP} --trade-off-fairness 2 --momentum 0.7"),
    "freematch, SVHN": ("freematch", f"{EXP} --trade-off-fairness 2 --momentum 0.7 --max-tau 0.45"),
    "softmatch": ("softmatch", f"{EXP} --momentum 0.7"),
    "adamatch": ("adamatch", f"{EXP} --momentum 0.7 --window 2"),
    "adamatch, running mean": ("adamatch", f"{EXP} --momentum 0.7 --window 0"),
    "adamatch, paper": ("adamatch", f"{EXP} --momentum 0.7 --window 2 --interpolate --warm-up-epochs 1 -i 3"),
    "comatch": ("comatch", f"{COMATCH} --threshold 0.6 --trade-off-contrast 2"),
    "simmatch": ("simmatch", f"{EXP} --projection-dim 4 --window 3 --threshold 0.6 --T 0.5 --smoothing 0.6"),
    "noisy_student": ("noisy_student", f"{EXP} --T 0.5 --trade-off-self-training 2"),
    "self_tuning": ("self_tuning", f"{SMALL} --projection-dim 5 --K 3 --m 0.8 --T 0.5 --milestones 1"),
    "dst": ("dst", f"{EXP} --threshold 0.7 --width 7 --eta 0.7"),
    "vat": ("vat", VAT),
    "mixmatch": ("mixmatch", f"{RISING} --trade-off-con 20"),
    "mixmatch, one lambda": ("mixmatch", f"{RISING} --beta 0.5 --one-lambda --T 0.8"),
    "remixmatch": ("remixmatch", f"{RISING} --window 3 --momentum 0.6"),
    "remixmatch, one lambda": ("remixmatch", f"{RISING} --one-lambda --T 0.8 --trade-off-rotation 2 --window 1"),
    "vat, two iterations": ("vat", f"{VAT} --power-iterations 2 --labeled-statistics"),
}


def scripts(method: str, flags: str, start: int = 1000):
    args = steps.arguments(method, *flags.split())
    # DST's reference also runs, and draws dropout masks for, the heads that a pass has no use for.
    setup = steps.build(method, args, dropout=0.0 if method == "dst" else 0.5)
    if method == "self_tuning":
        scheduler = MultiStepLR(setup.optimizer, args.milestones, args.lr_gamma)
    else:
        scheduler = optim.schedule(setup.optimizer, args.lr_scheduler, args.lr_gamma, args.lr_decay, sum(LENGTHS))
    literal = transcription.METHODS[method](copy.deepcopy(setup.model), args, steps.IMAGES, steps.CLASSES)
    if method == "dst":  # the reversal is near nothing at first
        setup.model.reversal.steps.fill_(start)
        literal.n = start
    if method == "noisy_student":
        setup.state[0].weights[::3] = 0
        setup.state[0].weights[1::3] = 2
        literal.teacher, literal.weights = (part.tolist() for part in (setup.state[0].logits, setup.state[0].weights))
    if method == "self_tuning":
        literal.queue = setup.state[1].keys.flatten(0, 1).T.clone()
    if method == "simmatch":  # all but one of the labeled images were seen before
        setup.state[1].written.fill_(True)
        literal.missing = {steps.batches(method, 1)[0].indices[0].item()} - {*steps.batches(method)[0].indices.tolist()}
        setup.state[1].written[list(literal.missing)] = False
        literal.bank = list(setup.state[1].embeddings.clone())
    return args, setup, scheduler, literal


def train_literally(method: str, literal) -> list[dict]:
    rows = []
    for epoch, length in enumerate(LENGTHS):
        data = [steps.batches(method, sum(LENGTHS[:epoch]) + i) for i in range(length)]
        rows += literal.train_epoch(data, lambda step: torch.manual_seed(100 + step))
    return rows


def assert_near(actual, expected, what: str) -> None:
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, msg=lambda text: f"{what}: {text}")


def assert_same_tensors(actual: torch.nn.Module, expected: torch.nn.Module) -> None:
    a, b = actual.state_dict(), expected.state_dict()
    assert {key for key in a if key != "reversal.steps"} == {key for key in b if key != "reversal.steps"}
    for key in b:
        if key != "reversal.steps":
            assert_near(a[key], b[key], key)


def assert_same_state(method: str, model, state, literal) -> None:
    if method == "mean_teacher":
        assert_same_tensors(state[0].network, literal.teacher)
        assert state[0].updates == sum(LENGTHS)
    elif method == "flexmatch":
        assert state[0].bank.tolist() == literal.bank
        assert -1 in literal.bank
        assert len(set(literal.bank)) > 2
    elif method == "debiasmatch":
        assert_near(state[0].q_hat, literal.q_hat, "q_hat")
    elif method in ("freematch", "softmatch"):
        for name, value in state[0].state_dict().items():
            assert_near(value, getattr(literal, name), name)
    elif method in steps.WITH_PROJECTOR:
        assert_near(state[0].means.sum(dim=0), [sum(column) for column in zip(*literal.newest, strict=True)], "window")
        bank = literal.bank if method == "simmatch" else [z for z, _ in literal.bank]
        assert_near(state[1].embeddings, torch.stack(bank), "bank")
        if method == "comatch":
            assert_near(state[1].probabilities, [p for _, p in literal.bank], "bank's predictions")
            assert state[1].written == 16 * sum(LENGTHS)
    elif method == "adamatch":
        assert_near(state[0].p_labeled, literal.p_labeled, "p_labeled")
        assert_near(state[0].window.mean(dim=0), literal.p_unlabeled, "p_unlabeled")
    elif method == "self_tuning":
        assert_same_tensors(state[0].encoder, literal.encoder_k)
        assert_near(state[1].keys.flatten(0, 1).T, literal.queue, "queue")
        assert state[1].pointers.tolist() == literal.pointers
    elif method == "dst":
        assert model.reversal.steps == literal.n
    elif method in ("vat", "mixmatch", "remixmatch"):
        assert getattr(state[-1], "random", state[-1]).draws == literal.random.draws
    if method == "remixmatch":
        assert_near(state[0].window, literal.window, "window")
        assert_near(state[0].p_labeled, literal.p_labeled, "p_labeled")


@pytest.mark.parametrize("case", CASES)
def test_five_steps(case):
    method, flags = CASES[case]
    args, setup, scheduler, literal = scripts(method, flags)
    before = copy.deepcopy(setup.model)
    rows = steps.Epochs(method, LENGTHS).train(setup, args, scheduler)
    expected = train_literally(method, literal)

    for i, (row, expected_row) in enumerate(zip(rows, expected, strict=True)):
        assert expected_row.keys() <= row.keys()
        for name, value in expected_row.items():
            assert_near(
                torch.stack(row[name]) if isinstance(value, tuple) else row[name].detach(), value, f"{i} {name}"
            )
    assert_same_tensors(setup.model, literal.net)
    assert_same_state(method, setup.model, setup.state, literal)

    pairs = zip(setup.model.parameters(), before.parameters(), strict=True)
    assert not any(torch.allclose(p, q, atol=1e-3) for p, q in pairs if p.ndim > 1)
    ratios = [row["pseudo_label_ratio"] for row in expected if "pseudo_label_ratio" in row]
    assert not ratios or any(0 < ratio < 100 for ratio in ratios)  # a mask worth the name
