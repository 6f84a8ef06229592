"""The oracle: each token of the clone with the rows of the English token that it mirrors.

With these rows the hidden states of a clone text are those of its English original. Let m be the probability that the
model gives, at some position, to the English tokens that have a clone. Over the whole vocabulary the next token of
either language costs log2(1 + m) bits more than in English, one bit where m is 1; over the clone's own vocabulary, that
is without those English tokens, it costs what English costs (papers: English-Clone of PreAlign, arXiv 2407.16222).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel


@torch.no_grad()
def oracle_rows(model: PreTrainedModel, originals: list[int | None], path: Path) -> None:
    """Write a file for `align.init = "file"`: `input` fp32 [M, D] and, if the head is not tied, `output` fp32 [M, D].

    Args:
        model: the base model.
        originals: for each of the M new tokens the English one that it mirrors; None, a part of a letter, gets the
            mean of all rows.
    """
    inputs = model.get_input_embeddings().weight
    outputs = model.get_output_embeddings().weight
    tables = {"input": inputs} if outputs is inputs else {"input": inputs, "output": outputs}
    at_M = torch.tensor([original if original is not None else -1 for original in originals])
    rows = {}
    for name, table_VD in tables.items():
        table_VD = table_VD.detach().float().cpu()
        rows[name] = torch.where((at_M >= 0)[:, None], table_VD[at_M.clamp(min=0)], table_VD.mean(dim=0))
    save_file(rows, path)
