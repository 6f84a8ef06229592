"""The language-model loss of packed rows: attention inside documents only, and never all logits of a batch at once.

    position_ids --document_borders--> borders --attend_documents--> each document attends to itself
    hidden states, head, labels --summed_nll--> loss and its gradient, some positions at a time

Attention has two forms with the same result. "sdpa" is transformers' own: a [T, T] mask from positions that restart; it
works on every device and precision. "documents" is torch's attention over sequences of different length, a flash kernel
of CUDA in bf16: no mask is built, nothing is computed across documents, and nothing waits for the GPU.

Shapes: B sequences, T tokens, N positions, D hidden size, V vocabulary. In attention N documents (a part of one at the
begin of a row counts), H heads, K key and value heads, D head size.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel

from prealign_cpt.model.tables import head_rows

CHUNK = 1024
"""Positions whose logits exist at once: fp32 [1024, V], 0.5 GB at V = 128k."""

IGNORED = -100
"""The label of a position that is not learned."""

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
    attended = varlen_attn(
        query, key, value, borders, borders, length, length, scale=scaling, window_size=window, enable_gqa=True
    )
    assert isinstance(attended, Tensor)
    return attended.unflatten(0, (rows, length)), None


AttentionInterface.register(DOCUMENTS, attend_documents)


class LanguageModelLoss(nn.Module):
    """A Hugging Face causal LM whose `forward` returns the summed loss.

    The embedding, the final norm and the head belong to this module's own FSDP group, so the head's weight is whole
    while the loss is computed, and tied weights stay one parameter.

    Attributes:
        soft_weight: share of the target probability that goes to the input of a position where its label is another
            token; 0 where labels are hard (see `LanguageModelLoss.forward`).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.soft_weight = 0.0

    def forward(
        self, inputs: Tensor, labels: Tensor, position_ids: Tensor, each: bool = False, borders: Tensor | None = None
    ) -> Tensor:
        """Negative log-likelihoods in nats, fp32: their sum, or each of the learned positions in reading order.

        With a soft weight w the target distribution is (1 - w) onehot(label) + w onehot(input). The two tokens differ
        only at the first token of a switched word: there the label is the original word's first token and the input
        its translation's (the lexicon-guided labels of AlignLM, arXiv 2106.01732, for a decoder).

        Args:
            inputs: int64 [B, T].
            labels: int64 [B, T]; labels[:, i] is predicted from inputs[:, :i]; -100 and the first column are not
                learned.
            position_ids: int64 [B, T]; where they restart at 0 a document begins and attention does not reach back.
            each: return one number for each learned position instead of the sum.
            borders: `document_borders(position_ids)`, if it is known already.
        """
        packed = {}
        if self.model.config._attn_implementation == DOCUMENTS:
            packed["borders"] = document_borders(position_ids) if borders is None else borders
        # use_cache=True, or any attention mask, would silently let attention cross documents.
        hidden = self.model.base_model(
            input_ids=inputs, position_ids=position_ids, use_cache=False, **packed
        ).last_hidden_state.flatten(0, 1)
        head, new_rows = head_rows(self.model)
        # Position i predicts token i + 1. What is not learned stays in: to pick the rest out would wait for the GPU.
        targets, others = (F.pad(ids[:, 1:], (0, 1), value=IGNORED).flatten() for ids in (labels, inputs))
        if each:
            return chunked_nll(hidden, targets, head, others, self.soft_weight, new_rows)[targets != IGNORED]
        return summed_nll(hidden, targets, head, others, self.soft_weight, new_rows)


def chunked_nll(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head_VD: Tensor,
    others_N: Tensor | None = None,
    weight: float = 0.0,
    new_MD: Tensor | None = None,
) -> Tensor:
    """-log softmax(hidden @ head.T)[label] for each of N positions, fp32 [N]; the backward pass recomputes logits.

    With a weight it is (1 - weight) times that, plus weight times the same of the other token. 0 at ignored positions.

    Args:
        new_MD: further rows of the head, where it is cut (model/tables.py).
    """
    parts = []
    others_N = labels_N if others_N is None else others_N
    for chunk in zip(hidden_ND.split(CHUNK), labels_N.split(CHUNK), others_N.split(CHUNK), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chunk, *chunk, head_VD, weight, new_MD, use_reentrant=False))
        else:
            parts.append(_chunk(*chunk, head_VD, weight, new_MD))
    return torch.cat(parts)


def summed_nll(
    hidden_ND: Tensor,
    labels_N: Tensor,
    head_VD: Tensor,
    others_N: Tensor,
    weight: float = 0.0,
    new_MD: Tensor | None = None,
) -> Tensor:
    """The sum of `chunked_nll`, fp32 []; the gradient is taken along with the value, so no logits are computed twice.

    The head's gradient is summed over the chunks in fp32 whatever the precision of the weights: in bf16 it loses what
    late chunks add (Liger-Kernel issue 512).
    """
    if not torch.is_grad_enabled():
        return chunked_nll(hidden_ND, labels_N, head_VD, others_N, weight, new_MD).sum()
    return _SummedNLL.apply(hidden_ND, labels_N, others_N, weight, head_VD, *([] if new_MD is None else [new_MD]))


def _chunk(hidden: Tensor, labels: Tensor, others: Tensor, head: Tensor, weight: float, new: Tensor | None) -> Tensor:
    logits = _logits(hidden, [head] if new is None else [head, new]).float()
    nll = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    if not weight:
        return nll
    others = torch.where(labels == IGNORED, labels, others)
    return (1 - weight) * nll + weight * F.cross_entropy(logits, others, reduction="none", ignore_index=IGNORED)


def _logits(hidden: Tensor, tables: Sequence[Tensor]) -> Tensor:
    parts = [hidden @ table.T for table in tables]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class _SummedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, others: Tensor, weight: float, *tables: Tensor) -> Tensor:
        value = torch.zeros((), device=hidden.device)
        for_hidden = torch.empty_like(hidden)
        wanted = ctx.needs_input_grad[4:]  # a frozen table's would be the largest tensor of all
        for_tables = [
            torch.zeros_like(table, dtype=torch.float32) if want else None
            for table, want in zip(tables, wanted, strict=True)
        ]
        for i in range(0, len(hidden), CHUNK):
            part = slice(i, i + CHUNK)
            nll, whole = _value_and_slope(_logits(hidden[part], tables), labels[part], others[part], weight)
            value += nll
            slopes = whole.split([len(table) for table in tables], dim=1)
            for_hidden[part] = slopes[0] @ tables[0]
            for slope, table in zip(slopes[1:], tables[1:], strict=True):
                for_hidden[part] += slope @ table
            for slope, for_table in zip(slopes, for_tables, strict=True):
                if for_table is None:
                    continue
                if slope.dtype == torch.float32:
                    for_table.addmm_(slope.T, hidden[part])
                else:
                    for_table += slope.T @ hidden[part]
        kept = [None if g is None else g.to(table.dtype) for g, table in zip(for_tables, tables, strict=True)]
        ctx.save_for_backward(for_hidden, *kept)
        return value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        # 1 / targets, say, in bf16 would be off by up to 0.4 % in all of them.
        for_hidden, *for_tables = (
            None if g is None else (g.float() * gradients[0]).to(g.dtype) for g in ctx.saved_tensors
        )
        return for_hidden, None, None, None, *for_tables


def _value_and_slope(logits: Tensor, labels: Tensor, others: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood [], fp32, and its gradient by the logits [N, V]; one fp32 copy of the logits."""
    learned = labels != IGNORED
    targets = [(labels, 1 - weight), (others, weight)] if weight else [(labels, 1.0)]
    p = logits.float()
    top = p.amax(dim=-1, keepdim=True)
    chosen = [(torch.where(learned, ids, 0)[:, None], share) for ids, share in targets]
    at_target = sum(share * p.gather(1, ids) for ids, share in chosen)
    p.sub_(top).exp_()
    total = p.sum(dim=-1, keepdim=True)
    nll = (top + total.log() - at_target).masked_fill(~learned[:, None], 0.0).sum()
    p.div_(total)
    for ids, share in chosen:
        p.scatter_add_(1, ids, p.new_full(ids.shape, -share))
    return nll, p.mul_(learned[:, None]).to(logits.dtype)
