"""A model that was computed with in the run's precision, saved with all the digits that its weights had before.

    model, exact values by name ─► what has not moved: the exact value; what has: the model's ─► Hugging Face folder

Training goes on in fp32, and bf16 would change nearly every weight of a base in fp16 or fp32.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.model.tensors import write_weights


@torch.no_grad()
def save_unrounded(
    model: PreTrainedModel, exact: Callable[[str], Tensor], tokenizer: PreTrainedTokenizerBase, out: Path
) -> None:
    """Save a model, tensor by tensor, with exact values wherever it holds nothing but those rounded to its own dtype.

    The files are in bf16 if that holds every value, otherwise in fp32.

    Args:
        model: what is cut over the ranks has not moved, and is not looked at.
        exact: a tensor by its name, of the model's shape.
        tokenizer: saved beside it.
    """
    values = model.state_dict()

    def read(name: str) -> Tensor:
        value, kept = values[name], exact(name).cpu()
        if isinstance(value, DTensor):
            return kept
        value = value.cpu()
        if value.dtype == kept.dtype:
            return value
        return torch.where(value == kept.to(value.dtype), kept.float(), value.float())

    with torch.device("meta"):
        written: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    written.generation_config = model.generation_config
    names = written.state_dict().keys() - written.all_tied_weights_keys.keys()
    if not all(_fits_bf16(read(name)) for name in names):
        written = written.to(torch.float32)
    write_weights(written, read, out)
    tokenizer.save_pretrained(out)


def _fits_bf16(value: Tensor) -> bool:
    return value.dtype == torch.bfloat16 or torch.equal(value, value.bfloat16().to(value.dtype))
