"""The moving average of a model's weights, which answers more steadily than the newest ones.

Buffers are the newest. Exact on resume: it depends on the weights and the number of the step.
"""

import torch

WARM_STEPS = 10  # the first weights, of chance, are forgotten sooner than the decay would


class Average:
    """An exponential moving average of the trainable weights (Polyak and Juditsky, 1992)."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: live.detach().clone() for name, live in self._live().items()}

    def _live(self) -> dict[str, torch.Tensor]:
        named = self.model.named_parameters(remove_duplicate=False)
        return {name: weight for name, weight in named if weight.requires_grad}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Add the weights after a step."""
        decay = min(self.decay, number / (number + WARM_STEPS))
        live = [weight.detach() for weight in self._live().values()]
        torch._foreach_lerp_(list(self.weights.values()), live, 1 - decay)

    def state(self) -> dict[str, torch.Tensor]:
        """A whole state of the model, with the averaged weights."""
        return {**self.model.state_dict(), **self.weights}
