"""Attention inside documents only, for packed rows.

    position_ids --document_borders--> borders --attend_documents--> each document attends to itself

There are two forms with the same result. "sdpa" is transformers' own: a [T, T] mask from positions that restart; it
works on every device and precision. "documents" is torch's attention over sequences of different length, a flash kernel
of CUDA in bf16: no mask is built, nothing is computed across documents, and nothing waits for the GPU.

Shapes: B rows, T tokens, N documents (a part of one at the begin of a row counts), H heads, K key and value heads,
D head size.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

DOCUMENTS = "documents"
"""Name of `attend_documents` in a model's configuration."""


def choose_attention(device: torch.device, precision: Literal["bf16", "fp32"]) -> str:
    """The form that suits a device: flash kernels are for CUDA and half precision."""
    return DOCUMENTS if device.type == "cuda" and precision == "bf16" else "sdpa"


def document_borders(position_ids: Tensor) -> Tensor:
    """Where documents begin in the rows laid end to end, and the end of all: int32 [N + 1].

    Args:
        position_ids: int64 [B, T], 0 where a document begins and at the begin of every row. On a GPU this waits for it.
    """
    flat = position_ids.flatten()
    end = torch.tensor([len(flat)], device=flat.device)
    return torch.cat([(flat == 0).nonzero()[:, 0], end]).to(torch.int32)


def attend_documents(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,
    *,
    borders: Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention as transformers asks for it; the result is [B, T, H, D].

    Args:
        borders: int32 [N + 1], `document_borders` of the batch.
        sliding_window: a token attends to so many newest tokens, itself among them.
    """
    assert attention_mask is None, "the borders are the mask"
    rows, length = query_BHTD.shape[0], query_BHTD.shape[2]
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query_BHTD, key_BKTD, value_BKTD))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    # The row length bounds every document's: a number that does not change with the batch compiles once.
    found = varlen_attn(
        query, key, value, borders, borders, length, length, scale=scaling, window_size=window, enable_gqa=True
    )
    assert isinstance(found, Tensor)
    return found.unflatten(0, (rows, length)), None


AttentionInterface.register(DOCUMENTS, attend_documents)
