"""The language-model loss, computed so that the logits of a batch never exist at once.

Shapes: B sequences, T tokens, N learned positions, D hidden size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK = 1024
"""Positions whose logits exist at once: fp32 [1024, V], 0.5 GB at V = 128k."""


class LanguageModelLoss(nn.Module):
    """A Hugging Face causal LM whose `forward` returns the summed loss.

    The embedding, the final norm and the head belong to this module's own FSDP group, so the head's weight is whole
    while the loss is computed, and tied weights stay one parameter.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor, position_ids: Tensor, each: bool = False) -> Tensor:
        """Negative log-likelihoods in nats, fp32: their sum, or each of the N learned positions in reading order.

        Args:
            inputs: int64 [B, T].
            labels: int64 [B, T]; labels[:, i] is predicted from inputs[:, :i]; -100 and the first column are not
                learned.
            position_ids: int64 [B, T]; where they restart at 0 a document begins and attention does not reach back.
            each: return [N] instead of the sum.
        """
        # use_cache=True, or any attention mask, would silently let attention cross documents.
        hidden = self.model.base_model(input_ids=inputs, position_ids=position_ids, use_cache=False).last_hidden_state
        wanted = labels[:, 1:]
        learned = wanted != -100
        nll = chunked_nll(hidden[:, :-1][learned], wanted[learned], self.model.get_output_embeddings().weight)
        return nll if each else nll.sum()


def chunked_nll(hidden_ND: Tensor, labels_N: Tensor, head_VD: Tensor) -> Tensor:  # noqa: N803
    """-log softmax(hidden @ head.T)[label] for each of N positions, fp32 [N]; the backward pass recomputes logits."""
    parts = []
    for hidden, labels in zip(hidden_ND.split(CHUNK), labels_N.split(CHUNK), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chunk, hidden, labels, head_VD, use_reentrant=False))
        else:
            parts.append(_chunk(hidden, labels, head_VD))
    return torch.cat(parts)


def _chunk(hidden: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ head.T).float(), labels, reduction="none")
