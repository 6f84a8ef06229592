"""Tables whose old rows stay: embedding and head are cut in two, a frozen part and one that moves.

    embedding [V, D] ─► old [V - M, D], frozen ; new [M, D]     so a new row alone has a gradient and moments
    head      [V, D] ─► the same, and tied where the embedding is

A mask over one table would keep a gradient of all its rows: 2.1 GB for 128k rows of 4,096 numbers, and moments of twice
that. Shapes: V rows, M new ones, D hidden size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel


class SplitEmbedding(nn.Module):
    """An embedding in two parts, which gives what the whole one gave.

    Args:
        whole: becomes the part `old`, so what its class does besides looking up (Gemma's factor) is done for both.
        first_new: id of the first row of the part `new`.
    """

    def __init__(self, whole: nn.Embedding, first_new: int) -> None:
        super().__init__()
        rows = whole.weight.detach()
        self.first_new = first_new
        self.new = nn.Parameter(rows[first_new:].clone())
        self.old = whole
        self.old.weight = nn.Parameter(rows[:first_new].clone(), requires_grad=False)
        self.old.padding_idx = None  # it only stops a gradient that old rows have not; in `new` it would be another row

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of ids [...]: [..., D]."""
        is_new = ids >= self.first_new
        old = self.old(ids.masked_fill(is_new, 0))
        new = functional_call(self.old, {"weight": self.new}, ((ids - self.first_new).clamp(min=0),))
        return torch.where(is_new[..., None], new, old)


def split_tables(model: PreTrainedModel, first_new: int) -> None:
    """Cut embedding and head, in place; what is tied stays tied, and old rows stay frozen."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    rows = head.weight.detach()
    split = SplitEmbedding(embedding, first_new)
    model.set_input_embeddings(split)
    head.weight = split.old.weight if tied else nn.Parameter(rows[:first_new].clone(), requires_grad=False)
    head.register_parameter("new", split.new if tied else nn.Parameter(rows[first_new:].clone()))


class Place(NamedTuple):
    """Where the rows of a parameter lie in a folder of the whole model."""

    name: str
    first: int
    rows: int
    """Of the whole tensor there."""


def stored_rows(model: PreTrainedModel, name: str) -> Place:
    """Where a parameter lies, by its name in a model whose tables are cut or not."""
    parameter, split = model.get_parameter(name), model.get_input_embeddings()
    rows = parameter.shape[0] if parameter.ndim else 1
    if not isinstance(split, SplitEmbedding):
        return Place(name, 0, rows)
    whole = split.first_new + len(split.new)
    owner, _, leaf = name.rpartition(".")
    if leaf == "new":
        return Place(f"{owner}.weight", split.first_new, whole)
    module = model.get_submodule(owner)
    if module is split.old:
        return Place(f"{owner.removesuffix('.old')}.weight", 0, whole)
    return Place(name, 0, whole if hasattr(module, "new") and leaf == "weight" else rows)


def head_rows(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """The head's rows: all [V, D] and None, or old [V - M, D] and new [M, D]."""
    head = model.get_output_embeddings()
    return head.weight, getattr(head, "new", None)


def row_tables(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters with rows of tokens that may move, the embedding's first: whole tables [V, D], or, where they are
    cut, the new rows [M, D]; the head's only where it is not tied."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    name = "new" if isinstance(embedding, SplitEmbedding) else "weight"
    tables = [getattr(embedding, name), getattr(head, name)]
    return [table for i, table in enumerate(tables) if table.requires_grad and (i == 0 or table is not tables[0])]
