"""The masked supervised-contrastive loss over words.

    L = mean over layers of the mean over (anchor a, positive p) of
        - log  exp(r(a).r(p) / tau) / sum over c allowed for a of exp(r(a).r(c) / tau)

PreAlign (arXiv 2407.16222, section 3.1) with the public code's faults mended: an anchor is kept out of its own
denominator by minus infinity (not by a factor, which leaves exp(0)), there are no padded slots, and pairs that the
lexicon connects without making them translations of one entry are no negatives.
Shapes: L layers, A anchors, C candidates, D hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    anchors_LAD: Tensor,  # noqa: N803
    candidates_LCD: Tensor,  # noqa: N803
    positive_AC: Tensor,  # noqa: N803
    excluded_AC: Tensor,  # noqa: N803
    temperature: float,
) -> Tensor:
    """The loss, fp32 scalar; its minimum is log P where every anchor has P positives.

    Args:
        anchors_LAD, candidates_LCD: vectors; they are normalised here.
        positive_AC: bool; translations. Anchors without a positive do not count.
        excluded_AC: bool; neither positive nor negative: the anchor itself, and false negatives.
        temperature: tau.
    """
    a = F.normalize(anchors_LAD.float(), dim=-1)
    c = F.normalize(candidates_LCD.float(), dim=-1)
    logits_LAC = a @ c.transpose(1, 2) / temperature  # noqa: N806
    logits_LAC = logits_LAC.masked_fill(excluded_AC, float("-inf"))  # noqa: N806
    log_p = logits_LAC - logits_LAC.logsumexp(dim=-1, keepdim=True)
    return -log_p[:, positive_AC].mean()


def relations(entries: list[list[str]], connected: dict[str, set[str]]) -> tuple[Tensor, Tensor]:
    """`positive` and `excluded`, bool [W, W], for the words of some lexicon entries laid end to end.

    Args:
        entries: for each entry its words, the English one first, then its translations in the batch.
        connected: word -> words that share an entry with it anywhere in the lexicon, English words and translations
            kept apart by the caller's own prefix.
    """
    words = [word for entry in entries for word in entry]
    group = torch.tensor([i for i, entry in enumerate(entries) for _ in entry])
    same = group[:, None] == group[None, :]
    itself = torch.eye(len(words), dtype=torch.bool)
    linked = torch.zeros(len(words), len(words), dtype=torch.bool)
    index: dict[str, list[int]] = {}
    for i, word in enumerate(words):
        index.setdefault(word, []).append(i)
    for i, word in enumerate(words):
        for other in connected.get(word, set()) | {word}:
            for j in index.get(other, []):
                linked[i, j] = True
    return same & ~itself, (linked & ~same) | itself
