"""Averages over an epoch that stay on the device until somebody reads them."""

import torch
from torch import Tensor

Metric = Tensor | tuple[Tensor, Tensor]


class Meters:
    """Running averages of the dictionaries that a training step returns.

    A metric is a scalar tensor, averaged over steps, or a pair (sum, weight), whose average is sum of sums / sum of
    weights. Updating never waits for the device; `averages` does.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.names: list[str] = []
        self.totals = torch.zeros(0, 2, dtype=torch.float64, device=self.device)

    def update(self, metrics: dict[str, Metric]) -> None:
        one = torch.ones((), device=self.device)
        pairs = [metric if isinstance(metric, tuple) else (metric, one) for metric in metrics.values()]
        values = torch.stack([value.detach() for pair in pairs for value in pair]).double().view(-1, 2)
        if not self.names:
            self.names, self.totals = list(metrics), torch.zeros_like(values)
        self.totals += values

    def averages(self) -> dict[str, float | None]:
        """name -> average; None where the weights sum to zero."""
        totals = self.totals.tolist()  # the one synchronisation with the device
        return {
            name: total / weight if weight else None for name, (total, weight) in zip(self.names, totals, strict=True)
        }

    def state_dict(self) -> dict:
        return {"names": self.names, "totals": self.totals}

    def load_state_dict(self, state: dict) -> None:
        self.names, self.totals = state["names"], state["totals"].to(self.device)
