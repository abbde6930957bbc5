"""How much training there is time for. No file is read, and no clock."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import UserError

FOLDS = 4  # parts of the labels, of which each trial holds one out
ONE_PART_SUFFICES = 400  # labels: one part of so many says enough
EPOCHS = 4  # of every run: it is saved after each
MIN_STEPS, TARGET_STEPS, MAX_STEPS = 40, 200, 2000  # steps of a run
MIN_STEPS_ALONE = 12  # steps, where there is time for one training alone
SAFETY = 0.9  # of the time is planned: machines are busy at times


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        step: method -> seconds of a step. The method that matters most comes first.
        run: seconds of a run besides its steps: it reads the images and the weights, evaluates and saves.
        end: seconds of all that comes after the last run: predictions, report, export.
    """

    step: Mapping[str, float]
    run: float
    end: float

    def of(self, number: int) -> "Costs":
        """The same for the first methods alone."""
        return Costs(dict(list(self.step.items())[:number]), self.run, self.end)

    def corrected(self, step: Mapping[str, float]) -> "Costs":
        """The same with better figures of some methods' steps."""
        return Costs({**self.step, **step}, self.run, self.end)

    def trials(self, steps: int) -> float:
        """Seconds of one round of trials: every method once, on one part of the labels."""
        return sum(self.run + steps * each for each in self.step.values())

    def final(self, steps: int) -> float:
        """Seconds of the training on all labels, by the slowest method, and of what comes after it."""
        return self.run + steps * max(self.step.values()) + self.end


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes:
        rounds: of trials, each on another part of the labels.
        steps: of a trial.
        methods: those that are tried.
        left_out: those that there is no time to try.
    """

    rounds: int
    steps: int
    methods: tuple[str, ...] = ()  # older folders do not say it
    left_out: tuple[str, ...] = ()


def most_rounds(labels: int) -> int:
    """How many rounds of trials say something, with so many labels that can be held out."""
    return 0 if labels < FOLDS else 1 if labels >= ONE_PART_SUFFICES else FOLDS


def plan(seconds: float, used: float, costs: Costs, labels: int) -> Plan:
    """As many methods as there is time for, then the most rounds whose runs have enough steps, then as many steps.

    If there is no time for a trial, or nothing to hold out, the first method alone is trained.

    Args:
        seconds, used: of the time that is left, and of that which the measuring has taken.
        labels: those that can be held out, of classes with two or more.

    Raises:
        UserError: there is too little time even for that.
    """
    most = most_rounds(labels)
    for number in range(len(costs.step) if most else 0, 0, -1):
        some = costs.of(number)
        affordable = {rounds: _steps(SAFETY * seconds, some, rounds) for rounds in range(1, most + 1)}
        if affordable[1] >= MIN_STEPS:
            rounds = max((each for each, steps in affordable.items() if steps >= TARGET_STEPS), default=1)
            return Plan(rounds, min(affordable[rounds], MAX_STEPS), tuple(some.step))
    alone = costs.of(1)
    steps = _steps(SAFETY * seconds, alone, 0)
    if steps < MIN_STEPS_ALONE:
        needed = alone.final(MIN_STEPS_ALONE) / SAFETY
        raise UserError(
            f"{(seconds + used) / 60:.0f} minutes are too short for {MIN_STEPS_ALONE} steps of "
            f"{next(iter(costs.step))} on this machine as busy as it is: give {(needed + used) / 60 * 1.5 + 1:.0f} or "
            "more, or a smaller --image-size"
        )
    return Plan(0, min(steps, MAX_STEPS), tuple(alone.step))


def _steps(seconds: float, costs: Costs, rounds: int) -> int:
    fixed = rounds * costs.trials(0) + costs.final(0)
    of_a_step = rounds * (costs.trials(1) - costs.trials(0)) + max(costs.step.values())
    return max(int((seconds - fixed) / of_a_step), 0) // EPOCHS * EPOCHS


def final_steps(seconds: float, costs: Costs, method: str, planned: int) -> int:
    """Steps of the training on all labels: as many as there is still time for, from half a trial's to twice as many.

    The trials say how good the network is. They would say nothing of a training of quite another length.
    """
    affordable = int((SAFETY * seconds - costs.run - costs.end) / costs.step[method])
    return max(min(affordable, 2 * planned, MAX_STEPS), planned // 2, EPOCHS) // EPOCHS * EPOCHS
