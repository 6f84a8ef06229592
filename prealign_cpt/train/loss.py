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

    Attributes:
        soft_weight: share of the target probability that goes to the input of a position where its label is another
            token; 0 where labels are hard (see `LanguageModelLoss.forward`).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.soft_weight = 0.0

    def forward(self, inputs: Tensor, labels: Tensor, position_ids: Tensor, each: bool = False) -> Tensor:
        """Negative log-likelihoods in nats, fp32: their sum, or each of the N learned positions in reading order.

        With a soft weight w the target distribution is (1 - w) onehot(label) + w onehot(input). The two tokens differ
        only at the first token of a switched word: there the label is the original word's first token and the input
        its translation's (the lexicon-guided labels of AlignLM, arXiv 2106.01732, for a decoder).

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
        others = inputs[:, 1:][learned] if self.soft_weight else None
        head = self.model.get_output_embeddings().weight
        nll = chunked_nll(hidden[:, :-1][learned], wanted[learned], head, others, self.soft_weight)
        return nll if each else nll.sum()


def chunked_nll(
    hidden_ND: Tensor,  # noqa: N803
    labels_N: Tensor,  # noqa: N803
    head_VD: Tensor,  # noqa: N803
    others_N: Tensor | None = None,  # noqa: N803
    weight: float = 0.0,
) -> Tensor:
    """-log softmax(hidden @ head.T)[label] for each of N positions, fp32 [N]; the backward pass recomputes logits.

    With a weight it is (1 - weight) times that, plus weight times the same of the other token.
    """
    parts = []
    others_N = labels_N if others_N is None else others_N  # noqa: N806
    for chunk in zip(hidden_ND.split(CHUNK), labels_N.split(CHUNK), others_N.split(CHUNK), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(_chunk, *chunk, head_VD, weight, use_reentrant=False))
        else:
            parts.append(_chunk(*chunk, head_VD, weight))
    return torch.cat(parts)


def _chunk(hidden: Tensor, labels: Tensor, others: Tensor, head: Tensor, weight: float) -> Tensor:
    logits = (hidden @ head.T).float()
    if not weight:
        return F.cross_entropy(logits, labels, reduction="none")
    log_probabilities = logits.log_softmax(dim=-1)
    label, other = (log_probabilities.gather(1, ids[:, None])[:, 0] for ids in (labels, others))
    return -((1 - weight) * label + weight * other)
