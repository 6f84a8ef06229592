"""What the folder itself computes, and how far a served value may be from it.

Shapes: T tokens, V rows of the vocabulary, D width of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

ROUNDING_FACTOR = {"fp32": 4, "bf16": 8}
"""How much further than transformers in the same type the worst served value may be from the exact one. In bf16 a
single value of a very unlikely token is off by much on both sides; there the mean says more."""

MEAN_FACTOR = 4
"""The same for the mean over all values."""

TYPES = {"fp32": (torch.float32, torch.float64), "bf16": (torch.bfloat16, torch.float32)}
"""The type that a server computes in, and the one that counts as exact beside it."""

Compute = Callable[[torch.nn.Module, list[int]], torch.Tensor]


@dataclass(frozen=True)
class Comparison:
    """Served values against the folder's."""

    difference: float
    """Largest difference to transformers in the server's type."""
    rounding: float
    """Largest difference of transformers in that type to the exact values; 0 if `difference` was within tolerance."""
    excess: float
    """Largest difference of the served values to the exact ones (to transformers', if those were near enough)."""
    bound: float
    """What `excess` may be."""
    mean: float
    """Mean difference, of the same values."""
    mean_bound: float
    """What `mean` may be."""
    worst: tuple[int, int, float, float]
    """Sequence and place of the largest difference, with the served and the folder's value there."""

    @property
    def holds(self) -> bool:
        return self.excess <= self.bound and self.mean <= self.mean_bound


def logprobs(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Log-probability of each id but the first: [T - 1], float64."""
    row = torch.tensor([ids])  # [1, T]
    with torch.inference_mode():
        logits = model(input_ids=row, use_cache=False).logits  # [1, T, V]
    return logits[:, :-1].double().log_softmax(-1).gather(-1, row[:, 1:, None]).flatten()


def mean_vector(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """Mean of the last hidden states of all tokens, of length one: [D], float64. vLLM's pooling type MEAN."""
    with torch.inference_mode():
        states = model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]  # [T, D]
    return torch.nn.functional.normalize(states.double().mean(0), dim=0)


def compare(
    served: list[torch.Tensor],
    folder: Path,
    sequences: list[list[int]],
    compute: Compute,
    dtype: str,
    tolerance: float,
) -> Comparison:
    """Compare what a server gave for `sequences` with what `compute` gives for the folder's model.

    A few activations of some models are thousands of times larger than the rest, and two correct programs then differ
    by far more than the last digit (SmolLM2 in fp32: 1e-4). So where the tolerance does not hold, the rounding of the
    type is measured: the same model once more in a type that counts as exact, which takes twice its memory. Norms and
    angles of a double model stay fp32, so the rounding is underestimated: hence ROUNDING_FACTOR.

    Args:
        served: one float64 tensor for each sequence, of the shape that `compute` gives.
        dtype: what the server computes in: "fp32" or "bf16".
    """
    from transformers import AutoModelForCausalLM

    low, high = TYPES[dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=low).eval()
    local = [compute(model, ids) for ids in sequences]
    difference = largest(served, local)
    if difference <= tolerance:
        mean = mean_difference(served, local)
        return Comparison(difference, 0.0, difference, tolerance, mean, tolerance, _worst(served, local))
    exact = [compute(model.to(high), ids) for ids in sequences]
    rounding = largest(local, exact)
    bound = max(tolerance, ROUNDING_FACTOR[dtype] * rounding)
    mean_bound = max(tolerance, MEAN_FACTOR * mean_difference(local, exact))
    mean = mean_difference(served, exact)
    return Comparison(difference, rounding, largest(served, exact), bound, mean, mean_bound, _worst(served, exact))


def mean_difference(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Mean absolute difference over all values; a NaN counts as infinite."""
    gap = (torch.cat(left) - torch.cat(right)).abs().nan_to_num(torch.inf)
    return float(gap.mean()) if len(gap) else 0.0


def largest(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Largest difference anywhere; a NaN counts as infinite."""
    gap = (torch.cat(left) - torch.cat(right)).abs().nan_to_num(torch.inf)
    return float(gap.max()) if len(gap) else 0.0


def _worst(served: list[torch.Tensor], local: list[torch.Tensor]) -> tuple[int, int, float, float]:
    number = max(range(len(served)), key=lambda n: largest(served[n : n + 1], local[n : n + 1]))
    if not len(served[number]):
        return number, 0, 0.0, 0.0
    place = int((served[number] - local[number]).abs().nan_to_num(torch.inf).argmax())
    return number, place, float(served[number][place]), float(local[number][place])
