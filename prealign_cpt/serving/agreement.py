"""How far a served model's values may be from those of its folder: a tolerance, or what rounding does to this model.

A few activations of some models are thousands of times larger than the rest, and two correct programs then differ by
far more than the last digit (SmolLM2 in fp32: 1e-4). So where the tolerance does not hold, the same model is
computed once more in a type that counts as exact. Norms and angles of a double model stay fp32, so the rounding is
underestimated: hence the factors.

Shapes: T tokens, V rows of the vocabulary, D width of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

ROUNDING_FACTOR = 8
"""How much further than transformers in the same type the worst served value may be from the exact one. A single value
of a very unlikely token is off by much on both sides (5 times in a Bengali model in fp32); the mean says more."""

MEAN_FACTOR = 4
"""The same for the mean over all values."""

Values = list[torch.Tensor]
"""One float64 tensor for each sequence, on the CPU."""


@dataclass(frozen=True)
class Agreement:
    """Served values beside local ones."""

    difference: float
    """Largest difference to the local values."""
    rounding: float
    """Largest difference that the type makes to the local values; 0 if the tolerance held and nobody asked."""
    excess: float
    """Largest difference to the exact values, and what it may be."""
    bound: float
    mean: float
    """The same on average."""
    mean_bound: float
    exact: Values
    """What was compared with in the end."""

    @property
    def holds(self) -> bool:
        """Whether the values are within their bounds; a NaN is not."""
        return self.excess <= self.bound and self.mean <= self.mean_bound


def agreement(
    served: Values, local: Values, in_types: Callable[[], tuple[Values, Values]], tolerance: float
) -> Agreement:
    """Compare them.

    Args:
        in_types: asked only if the tolerance does not hold: local values in the server's type, and exact ones.
        tolerance: for one value.
    """
    difference, mean = distance(served, local)
    if difference <= tolerance:
        return Agreement(difference, 0.0, difference, tolerance, mean, tolerance, local)
    low, exact = in_types()
    rounding, mean_rounding = distance(low, exact)
    excess, mean = distance(served, exact)
    bound, mean_bound = max(tolerance, ROUNDING_FACTOR * rounding), max(tolerance, MEAN_FACTOR * mean_rounding)
    return Agreement(difference, rounding, excess, bound, mean, mean_bound, exact)


def gap(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Absolute differences; a NaN counts as infinite."""
    return (left - right).abs().nan_to_num(torch.inf)


def distance(left: Values, right: Values) -> tuple[float, float]:
    """Largest and mean difference over all values."""
    apart = gap(torch.cat(left), torch.cat(right))
    return (float(apart.max()), float(apart.mean())) if len(apart) else (0.0, 0.0)


def logprobs(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probability of each id but the first under a local model: [T - 1], float64, on the CPU."""
    row = torch.tensor([ids], device=model.get_input_embeddings().weight.device)  # [1, T]
    with torch.inference_mode():
        logits = model(input_ids=row, use_cache=False).logits  # [1, T, V]
    return logits[:, :-1].double().log_softmax(-1).gather(-1, row[:, 1:, None]).flatten().cpu()


def mean_vector(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Mean of the last hidden states of all tokens, of length one: [D], float64. vLLM's pooling type MEAN."""
    with torch.inference_mode():
        states = model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]  # [T, D]
    return torch.nn.functional.normalize(states.double().mean(0), dim=0)
