"""Groups of a trained model's weights, each to be put back to where training began, or to be drawn anew.

    tables: new rows | old rows (untied: input | head)      blocks: thirds; the last one has the final norm

What is changed lies in the one model in memory, and is restored afterwards.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign_cpt.model.load import blocks
from prealign_cpt.model.tensors import Tensors

BLOCK_GROUPS = 3


@dataclass(frozen=True)
class Part:
    """Rows of a parameter, by its name in the model."""

    name: str
    first: int = 0
    last: int | None = None

    def of(self, model: PreTrainedModel) -> Tensor:
        """A view of it."""
        return model.get_parameter(self.name).data[self.first : self.last]


Groups = dict[str, list[Part]]


def groups_of(model: PreTrainedModel, first_new: int | None) -> Groups:
    """Every parameter of a model in one group, by names for people.

    Args:
        first_new: id of the first new token; None where there are none.

    Raises:
        RecipeError: the blocks are elsewhere than in `layers`.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    table, head = (names[id(layer.weight)] for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    groups: Groups = {}
    if first_new is not None:
        groups["new rows"] = [Part(name, first_new) for name in dict.fromkeys((table, head))]
    groups["old rows"] = [Part(table, 0, first_new)]
    whole = blocks(model)
    size = math.ceil(len(whole) / BLOCK_GROUPS)
    for first in range(0, len(whole), size):
        members = whole[first : first + size]
        name = f"blocks {first + 1}-{first + len(members)}" if len(members) > 1 else f"block {first + 1}"
        groups[name] = [Part(names[id(p)]) for block in members for p in block.parameters()]
    if head != table:
        groups["head"] = [Part(head, 0, first_new)]
    known = {part.name for parts in groups.values() for part in parts}
    groups[name] += [Part(left) for left in names.values() if left not in known]
    return groups


@contextmanager
def put_back(model: PreTrainedModel, parts: list[Part], start: Path, factor: float = 0.0) -> Iterator[None]:
    """Inside this block some weights are `start + factor (trained - start)`; of 0 they are exactly those of `start`.

    Args:
        start: folder of the model that training began with.
    """
    with _restored(model, parts), Tensors(start) as tensors:
        for part in parts:
            now = part.of(model)
            began = tensors.rows(part.name, part.first, len(now)).to(now)
            now.copy_(torch.lerp(began.float(), now.float(), factor))
        yield


@contextmanager
def drawn_anew(model: PreTrainedModel, parts: list[Part], seed: int) -> Iterator[None]:
    """Inside this block some weights are random, as the architecture itself begins: modules are initialised whole, and
    what is not of these parts is put back."""
    owners = {part.name.rpartition(".")[0]: model.get_submodule(part.name.rpartition(".")[0]) for part in parts}
    others = [Part(f"{name}.{own}") for name, module in owners.items() for own, _ in module.named_parameters()]
    kept = {part.name: part.of(model).clone() for part in others}
    with _restored(model, parts), torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in owners.values():
            _initialize(model, module)
        drawn = [part.of(model).clone() for part in parts]
        for part in others:
            part.of(model).copy_(kept[part.name])
        for part, value in zip(parts, drawn, strict=True):
            part.of(model).copy_(value)
        yield


def _initialize(model: PreTrainedModel, module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # transformers skips what it has loaded
    model._init_weights(module)


@contextmanager
def _restored(model: PreTrainedModel, parts: list[Part]) -> Iterator[None]:
    kept = [part.of(model).clone() for part in parts]
    try:
        yield
    finally:
        for part, value in zip(parts, kept, strict=True):
            part.of(model).copy_(value)
