"""Stop a run whose losses, weights or scores are NaN or infinite, and say at which step and learning rates."""

import math
from typing import Any, NoReturn

from torch.optim import Optimizer

from common.errors import UserError
from common.system import checkpoint
from common.training.meters import Meters


class Guard:
    """Checks only where the host waits for the device anyway: at log lines and saves. Meters keep the first bad step.

    Args:
        meters: the run's.

    Attributes:
        saved_step: the step of the newest checkpoint, for the message.
    """

    def __init__(self, meters: Meters):
        self.meters, self.saved_step = meters, 0
        self._rates: dict[int, list[float]] = {}  # step -> learning rates, since the last check

    def note_rates(self, step: int, objects: dict[str, Any]) -> None:
        """Remember the step's learning rates, of all optimizers among the objects."""
        optimizers = [item for item in objects.values() if isinstance(item, Optimizer)]
        self._rates[step] = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]

    def check_metrics(self, step: int) -> None:
        """Check all metrics up to that step.

        Raises:
            UserError: one is not finite.
        """
        bad = self.meters.first_not_finite()
        if bad is not None:
            bad_step, metrics = bad
            known = {name: value for name, value in metrics.items() if value is not None}
            broken = ", ".join(name for name, value in known.items() if not math.isfinite(value))
            self._refuse(broken, bad_step, ", ".join(f"{name} {value:.4g}" for name, value in known.items()))
        self._rates = {s: rates for s, rates in self._rates.items() if s == step}

    def check_weights(self, state: dict[str, Any], step: int) -> None:
        """Check the tensors of a state. The last loss may be finite while its gradient was not.

        Raises:
            UserError: one is not finite.
        """
        name = checkpoint.not_finite(state)
        if name is not None:
            self._refuse(name, step, "found while saving")

    def check_scores(self, scores: dict[str, float], step: int) -> None:
        """Check the scores of an evaluation. Finite weights may give logits that are not finite.

        Raises:
            UserError: one is not finite.
        """
        broken = ", ".join(name for name, value in scores.items() if not math.isfinite(value))
        if broken:
            self._refuse(broken, step, ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))

    def _refuse(self, name: str, step: int, details: str) -> NoReturn:
        rates = ", ".join(f"{rate:g}" for rate in self._rates.get(step, [])) or "see --lr"
        kept = f"the checkpoint of step {self.saved_step} is kept" if self.saved_step else "nothing was saved yet"
        raise UserError(
            f"{name} not finite at step {step}: {details} (learning rates {rates}); {kept}: "
            "start anew with a smaller --lr, in another --log or with --overwrite"
        )
