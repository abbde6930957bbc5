"""How much training there is time for. No file is read, and no clock."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import UserError

FOLDS = 4  # parts of the labels, of which each trial holds one out
PLENTY = 400  # labels: one part of so many says enough
EPOCHS = 4  # of every run: it is saved after each
LEAST, WANTED, MOST = 40, 200, 2000  # steps of a run
MARGIN = 0.9  # of the time is planned: machines are busy at times


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        step: method -> seconds of a step.
        run: seconds of a run besides its steps: it reads the images and the weights, evaluates and saves.
        end: seconds of all that comes after the last run: predictions, report, export.
    """

    step: Mapping[str, float]
    run: float
    end: float

    def trials(self, steps: int) -> float:
        """Seconds of one round of trials: every method once, on one part of the labels."""
        return sum(self.run + steps * each for each in self.step.values())

    def final(self, steps: int) -> float:
        """Seconds of the training on all labels, by the slowest method, and of what comes after it."""
        return self.run + steps * max(self.step.values()) + self.end


@dataclass(frozen=True)
class Plan:
    """How many rounds of trials there are, each on another part of the labels, and how many steps a run has."""

    rounds: int
    steps: int


def plan(seconds: float, used: float, costs: Costs, labels: int) -> Plan:
    """The most rounds whose runs have enough steps; then as many steps as there is time for.

    Args:
        seconds, used: of the time that is left, and of that which the measuring has taken.
        labels: those that can be held out, of classes with two or more.

    Raises:
        UserError: there is too little time even for the shortest.
    """
    most = 0 if labels < FOLDS else 1 if labels >= PLENTY else FOLDS
    least = min(most, 1)
    affordable = {rounds: _steps(MARGIN * seconds, costs, rounds) for rounds in range(least, most + 1)}
    if affordable[least] < LEAST:
        needed = (least * costs.trials(LEAST) + costs.final(LEAST)) / MARGIN
        raise UserError(
            f"{(seconds + used) / 60:.0f} minutes are too short for {LEAST} steps of every method on this machine: "
            f"give {(needed + used) / 60 + 1:.0f} or more, and another --out, or a smaller --image-size"
        )
    rounds = max((each for each, steps in affordable.items() if steps >= WANTED), default=least)
    return Plan(rounds, min(affordable[rounds], MOST))


def _steps(seconds: float, costs: Costs, rounds: int) -> int:
    fixed = rounds * costs.trials(0) + costs.final(0)
    of_a_step = rounds * (costs.trials(1) - costs.trials(0)) + max(costs.step.values())
    return max(int((seconds - fixed) / of_a_step), 0) // EPOCHS * EPOCHS


def final_steps(seconds: float, costs: Costs, method: str, planned: int) -> int:
    """Steps of the training on all labels: as many as those of a trial, or as many as there is still time for.

    Never less than half: an estimate by trials of twice the length would be none.
    """
    affordable = int((MARGIN * seconds - costs.run - costs.end) / costs.step[method])
    return max(min(affordable, planned), planned // 2, EPOCHS) // EPOCHS * EPOCHS
