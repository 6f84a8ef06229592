"""New rows from old tokens with similar contexts, in the style of WECHSEL and of FOCUS.

Shapes: M new tokens, N old tokens with a vector, K dimensions of the vectors.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.init.anchors import find_anchors, mean_vectors
from prealign_cpt.align.init.lexicon import check_lexicon
from prealign_cpt.align.init.mixture import Mixture
from prealign_cpt.align.init.procrustes import fit_map
from prealign_cpt.align.init.statistics import TextStatistics
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import num_ids

NEIGHBOURS, TEMPERATURE = 10, 0.1
"""Of WECHSEL's mean."""

SUPPORT = 128
"""At most so many old tokens in a sparsemax; it rarely reaches ten."""

ROWS_AT_ONCE = 1_024
"""New tokens compared with all old ones in one go."""


def wechsel_mixture(
    base_tokenizer: PreTrainedTokenizerBase,
    grown_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    statistics: TextStatistics,
) -> Mixture:
    """In the style of WECHSEL (Minixhofer et al., 2112.06598, section 3): softmax over the nearest English tokens.

    Token vectors of English and of target text, the second mapped onto the first through the lexicon. The original
    takes fastText vectors of words, composes tokens from them, replaces the whole vocabulary and draws tokens without a
    vector at random; here tokens have vectors of their own, old rows stay, and tokens without a vector stay empty.

    Raises:
        DataError: a text is too small, or too few lexicon pairs occur in the texts.
    """
    check_lexicon(pairs, statistics)
    english = statistics.english_vectors(base_tokenizer)
    target = statistics.target_vectors(grown_tokenizer)
    anchors = find_anchors(pairs, base_tokenizer, grown_tokenizer, target, english)
    goals = mean_vectors(anchors.sources, english)
    mapped = fit_map(mean_vectors(anchors.targets, target), goals, anchors.weights)
    first_new = num_ids(base_tokenizer)
    new = target.ids >= first_new
    # Centers are taken off both sides: a common direction would make all cosines alike.
    queries = torch.nn.functional.normalize(mapped(target.vectors_NK[new]) - mapped.center_D)
    keys = torch.nn.functional.normalize(english.vectors_NK - mapped.center_D)
    num_new = num_ids(grown_tokenizer) - first_new
    return _mix(queries, target.ids[new] - first_new, keys, english.ids, num_new, _softmax)


def focus_mixture(
    base_tokenizer: PreTrainedTokenizerBase, grown_tokenizer: PreTrainedTokenizerBase, statistics: TextStatistics
) -> Mixture:
    """In the style of FOCUS (Dobler & de Melo, 2305.14481, section 3): sparsemax over the similarity with old tokens.

    One space, of target text in the grown tokenizer, where old tokens occur as well. The original trains fastText on
    such text and compares with all overlapping tokens, found by their decoded form; it draws tokens without a vector at
    random, here they stay empty. No lexicon.

    Raises:
        DataError: the text is too small.
    """
    vectors = statistics.target_vectors(grown_tokenizer)
    first_new = num_ids(base_tokenizer)
    new = vectors.ids >= first_new
    own, keys = vectors.vectors_NK[new], vectors.vectors_NK[~new]
    num_new = num_ids(grown_tokenizer) - first_new
    return _mix(own, vectors.ids[new] - first_new, keys, vectors.ids[~new], num_new, _sparsemax)


def sparsemax(scores: Tensor) -> Tensor:
    """Euclidean projection of each row, sorted from the largest, onto the simplex (Martins & Astudillo 2016)."""
    counts = torch.arange(1, scores.shape[1] + 1)
    excess = scores.cumsum(dim=1) - 1
    support = (scores * counts > excess).sum(dim=1, keepdim=True)
    threshold = excess.gather(1, support - 1) / support
    return (scores - threshold).clamp(min=0)


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    top, places = scores.topk(min(NEIGHBOURS, scores.shape[1]))
    return torch.softmax(top / TEMPERATURE, dim=1), places


def _sparsemax(scores: Tensor) -> tuple[Tensor, Tensor]:
    top, places = scores.topk(min(SUPPORT, scores.shape[1]))
    return sparsemax(top), places


def _mix(
    queries_MK: Tensor,
    rows_M: Tensor,
    keys_NK: Tensor,
    ids_N: Tensor,
    size: int,
    choose: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Mixture:
    """Weights of old tokens in the new tokens `rows_M`, chosen from cosines, a block of rows at a time."""
    rows, ids, weights = [], [], []
    for at in range(0, len(queries_MK) if len(keys_NK) else 0, ROWS_AT_ONCE):
        shares, places = choose(queries_MK[at : at + ROWS_AT_ONCE] @ keys_NK.T)
        kept = shares > 0
        rows.append(rows_M[at : at + ROWS_AT_ONCE, None].expand_as(shares)[kept])
        ids.append(ids_N[places[kept]])
        weights.append(shares[kept])
    if not rows:
        return Mixture.of([{} for _ in range(size)])
    return Mixture(size, torch.cat(rows), torch.cat(ids), torch.cat(weights))
