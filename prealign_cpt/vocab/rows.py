"""Give a model as many embedding rows as its grown tokenizer has tokens.

Old rows stay as they are, bit for bit; new rows start as the mean of the rows that belong to a token, which is a
defined, harmless place until the alignment stage fills them. Hugging Face's own `mean_resizing` samples around that
mean with a covariance so small that the rows come out equal anyway, and takes minutes for it.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@torch.no_grad()
def grow_rows(model: PreTrainedModel, num_tokens: int, num_old_tokens: int) -> None:
    """Resize input and output embeddings to exactly `num_tokens` rows, in place; without new tokens change nothing.

    Args:
        model: a causal language model; tied embeddings stay tied, `config.vocab_size` follows.
        num_tokens: rows afterwards: the grown tokenizer's highest id and one. Rows that padded the matrix beyond it are
            cut off.
        num_old_tokens: the grown tokenizer's first new id. Rows from there on, also those that padded the matrix,
            become the mean of the rows before; so do rows of old tokens that had none (in Gemma 3's text models the
            token for images, which is in no text).

    Raises:
        ValueError: there are fewer tokens than before.
    """
    if num_tokens < num_old_tokens:
        raise ValueError(f"{num_old_tokens} old tokens and {num_tokens} rows wanted: an old token would lose its row")
    if num_tokens == num_old_tokens:
        return
    num_kept = min(num_old_tokens, _layers(model)[0].weight.shape[0])
    tied = _tied(model)
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    assert _tied(model) == tied, "resizing changed whether the embeddings are tied"
    for layer in _layers(model):
        _fill(layer.weight, num_kept)
        bias = getattr(layer, "bias", None)
        if bias is not None:
            _fill(bias, num_kept)


def _layers(model: PreTrainedModel) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def _tied(model: PreTrainedModel) -> bool:
    inputs, outputs = _layers(model)
    return inputs.weight is outputs.weight


def _fill(parameter: nn.Parameter, num_old: int) -> None:
    """Set rows from `num_old` on to the mean of those before, summed in float32 or wider."""
    wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    parameter[num_old:] = parameter[:num_old].mean(dim=0, dtype=wide).to(parameter.dtype)
