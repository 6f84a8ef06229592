"""The two tables of a model: read the old rows, write the new ones.

Shapes: V old tokens, M new tokens, D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class StaticRows:
    """Rows of the new tokens, in the order of their ids.

    Attributes:
        input_MD: fp32 [M, D].
        output_MD: fp32 [M, D], norm-matched and shrunk as asked; the same tensor as `input_MD` when the head is tied.
        provenance: where each row comes from: "copied" (it is one old token's), "subword", "lexicon" (alone
            or mixed with subwords), "neighbour" (old tokens with similar contexts), "mapped" (its own contexts, through
            an orthogonal map), "mean" (asked for), "fallback" (the mean, since the token has no pieces) or "file".
    """

    input_MD: Tensor  # noqa: N815
    output_MD: Tensor  # noqa: N815
    provenance: list[str]


def old_tables(model: PreTrainedModel, num_old: int) -> tuple[Tensor, Tensor | None]:
    """The old tokens' input rows and, if the head is not tied, output rows; fp32 [V, D] on the CPU."""
    inputs = model.get_input_embeddings().weight
    outputs = model.get_output_embeddings().weight
    return (
        inputs.detach()[:num_old].float().cpu(),
        None if outputs is inputs else outputs.detach()[:num_old].float().cpu(),
    )


@torch.no_grad()
def write_rows(model: PreTrainedModel, new_ids: list[int], rows: StaticRows) -> None:
    """Put the rows into the model's tables, in its own dtype, in place."""
    ids = torch.tensor(new_ids, dtype=torch.long)
    for weight, values in (
        (model.get_input_embeddings().weight, rows.input_MD),
        (model.get_output_embeddings().weight, rows.output_MD),
    ):
        weight[ids.to(weight.device)] = values.to(weight)
