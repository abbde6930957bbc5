"""Averages of metrics over an epoch, and its first step with a NaN. They stay on the device until they are read."""

import torch
from torch import Tensor

from common.system import processes

Value = Tensor | float
Metric = Value | tuple[Value, Value]


class Meters:
    """Running averages of the dictionaries that a training step returns.

    A metric is a scalar, averaged over steps, or a pair (sum, weight), whose average is sum of sums / sum of weights.
    A scalar is a tensor on the device or a Python number. Each step of an epoch has the same metrics, in any order.
    Updating never waits for the device; reading does. With several processes, each adds up its own metrics; reading
    combines them, and every process must do it.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.names: list[str] = []
        self.totals = torch.zeros(0, 2, dtype=torch.float64, device=self.device)
        self._bad_step = torch.zeros((), dtype=torch.int64, device=self.device)
        self._bad_values = self.totals

    def update(self, metrics: dict[str, Metric], step: int) -> None:
        """Add the metrics of the run's step number `step`, counted from 1.

        Raises:
            ValueError: the names differ from those of earlier steps of the epoch.
        """
        names = self.names or list(metrics)
        if metrics.keys() != set(names):
            raise ValueError(
                f"step {step} has the metrics {', '.join(metrics)}, but the epoch's steps before had "
                f"{', '.join(names)}: return the same ones in every step of an epoch"
            )
        values = torch.stack([value for name in names for value in self._pair(metrics[name])]).double().view(-1, 2)
        if not self.names:
            self.names, self.totals, self._bad_values = names, torch.zeros_like(values), values
        self.totals += values
        is_first_bad = ~values.isfinite().all() & (self._bad_step == 0)
        self._bad_step = torch.where(is_first_bad, step, self._bad_step)
        self._bad_values = torch.where(is_first_bad, values, self._bad_values)

    def _pair(self, metric: Metric) -> tuple[Tensor, ...]:
        """The sum and the weight that a metric adds."""
        if isinstance(metric, tuple):
            return tuple(self._on_device(value) for value in metric)
        # Divided, so that the sum over the processes is their mean.
        value, one, count = self._on_device(metric), torch.ones((), device=self.device), processes.count()
        return (value / count, one / count) if count > 1 else (value, one)

    def _on_device(self, value: Value) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach()
        return torch.full((), value, dtype=torch.float64, device=self.device)  # filled on the device, so nothing waits

    def averages(self) -> dict[str, float | None]:
        """name -> average; None if the weights sum to zero."""
        return self._divided(processes.sum(self.totals))

    def first_not_finite(self) -> tuple[int, dict[str, float | None]] | None:
        """Number and metrics of the first step since `reset` with a NaN or infinite metric; None if there is none."""
        steps = processes.gather(self._bad_step[None]).tolist()
        values = processes.gather(self._bad_values[None])
        bad = [(step, rank) for rank, step in enumerate(steps) if step]
        if not bad:
            return None
        step, rank = min(bad)
        return step, self._divided(values[rank])

    def _divided(self, pairs: Tensor) -> dict[str, float | None]:
        return {
            name: total / weight if weight else None
            for name, (total, weight) in zip(self.names, pairs.tolist(), strict=True)
        }

    def state_dict(self) -> dict:
        return {"names": self.names, "totals": processes.sum(self.totals)}

    def load_state_dict(self, state: dict) -> None:
        self.names, self.totals = state["names"], state["totals"].to(self.device)
        if not processes.is_first():
            self.totals = torch.zeros_like(self.totals)
        self._bad_values = self.totals  # any values of this shape: a checkpoint has no bad step
