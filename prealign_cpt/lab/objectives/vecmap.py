"""New rows from the tokens' own vectors, mapped into the model's space through the lexicon; a file for `align.init`.

    target text ─ co-occurrences, PPMI, SVD ─► token vectors ─ orthogonal map fitted on lexicon pairs ─► rows

In the style of Chronopoulou et al. (arXiv 2103.10531, section 3.2). The original trains fastText for both languages,
maps them onto each other through identical strings and starts a new model from both; here the English side is the
trained model's own rows, which stay as they are, and the map is fitted on lexicon pairs. Levy, Goldberg & Dagan (TACL
2015) show that PPMI and SVD, with a smoothed context distribution, are on a par with skip-gram vectors. Tokens without
a vector get subword means.
Shapes: M new tokens, V old tokens, N tokens of the vocabulary, K dimensions of the vectors, P pairs, D hidden size.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.sparse import coo_array
from scipy.sparse.linalg import svds
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.align.lexicon_rows import SAMPLE_BYTES, TextStatistics, check_lexicon
from prealign_cpt.align.mixture import Mixture, mean_weights, old_pieces, subword_mixture
from prealign_cpt.align.rows import old_tables
from prealign_cpt.data.pack import encode
from prealign_cpt.lexicon.pairs import Pair, pair_weights
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.tokens import num_ids, token_texts
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.stage import training_sample

WINDOW = 5
"""Tokens to each side that are context; one at distance d counts 1 / d."""

MIN_COUNT = 3
"""Rarer tokens get no vector."""

DIMENSIONS = 128

MIN_TOKENS = 10_000
"""Of running text; below that the vectors are noise."""

SMOOTHING = 0.75
"""Exponent of the context distribution: rare contexts are not overrated."""

MIN_PAIRS = 10


def write_vecmap(recipe: Recipe, base: Path, vocab: Path, pairs: list[Pair], out: Path) -> None:
    """Write the rows file for a recipe's base model and grown tokenizer.

    Raises:
        DataError: the text is too small, or too few lexicon pairs occur in it.
    """
    base_tokenizer, tokenizer = (AutoTokenizer.from_pretrained(f, local_files_only=True) for f in (base, vocab))
    inputs, outputs = old_tables(load_whole(base), num_ids(base_tokenizer))
    statistics = TextStatistics(training_sample(recipe, "target", SAMPLE_BYTES), [])
    check_lexicon(pairs, statistics)
    tables = {"input": inputs} | ({} if outputs is None else {"output": outputs})
    rows = vecmap_rows(base_tokenizer, tokenizer, pairs, statistics.target_text, list(tables.values()), recipe.seed)
    save_file(dict(zip(tables, rows, strict=True)), out)


def vecmap_rows(
    base: PreTrainedTokenizerBase,
    grown: PreTrainedTokenizerBase,
    pairs: list[Pair],
    documents: list[str],
    tables: list[Tensor],
    seed: int,
) -> list[Tensor]:
    """Rows for each of some tables [V, D], fp32 [M, D], those from vectors of the old rows' mean norm."""
    first_new = num_ids(base)
    vectors_NK = token_vectors(encode(documents, grown), num_ids(grown), seed)
    known_N = vectors_NK.norm(dim=1) > 0
    sources, targets, weights_P = _pairs_with_vectors(pairs, base, grown, known_N)
    x_PK = torch.nn.functional.normalize(_means(targets, vectors_NK))
    subword = subword_mixture(old_pieces(token_texts(grown)[first_new:], base, grown))
    new_MK, covered_M = vectors_NK[first_new:], known_N[first_new:]
    rows = []
    for table_VD in tables:
        mapped = fit_map(x_PK, _means(sources, table_VD), weights_P)(new_MK[covered_M])
        rows_MD = subword.times(table_VD)
        rows_MD[covered_M] = mapped * (table_VD.norm(dim=1).mean() / mapped.norm(dim=1, keepdim=True).clamp(min=1e-12))
        rows.append(rows_MD)
    return rows


def token_vectors(documents: Iterable[NDArray[np.int32]], num_tokens: int, seed: int) -> Tensor:
    """Vectors of the tokens of some documents, fp32 [N, K] of length 1; zeros for tokens that are too rare.

    Args:
        documents: token ids; contexts do not cross their ends.

    Raises:
        DataError: the text is too small.
    """
    parts = list(documents)
    ids = np.concatenate([np.empty(0, np.int32), *parts])
    document = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    frequent = np.bincount(ids, minlength=num_tokens) >= MIN_COUNT
    if len(ids) < MIN_TOKENS or frequent.sum() < 2:
        raise DataError(
            f"text.target: {len(ids)} tokens are too few for token vectors, which need {MIN_TOKENS} or more; give more "
            "text"
        )
    counts = co_occurrences(ids, document, frequent)
    totals = counts.sum(axis=1)
    smooth = totals**SMOOTHING
    values = np.log(counts.data / (totals[counts.row] * smooth[counts.col] / smooth.sum()))
    kept = values > 0
    ppmi = coo_array((values[kept], (counts.row[kept], counts.col[kept])), shape=counts.shape).tocsr()
    start = np.random.default_rng(seed).standard_normal(num_tokens)
    left, singular, _ = svds(ppmi, k=min(DIMENSIONS, int(frequent.sum()) - 1), v0=start)
    vectors = np.where(frequent[:, None], left * np.sqrt(singular), 0).astype(np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(vectors))


def co_occurrences(ids: NDArray[np.int32], document: NDArray[np.int64], frequent: NDArray[np.bool_]) -> coo_array:
    """How often tokens stand near each other, [N, N], both directions counted, each pair once."""
    counts = coo_array((len(frequent), len(frequent)), dtype=np.float64).tocsr()
    for distance in range(1, WINDOW + 1):
        left, right = ids[:-distance], ids[distance:]
        inside = (document[:-distance] == document[distance:]) & frequent[left] & frequent[right]
        weights = np.full(int(inside.sum()), 1 / distance)
        counts = counts + coo_array((weights, (left[inside], right[inside])), shape=counts.shape).tocsr()
    return (counts + counts.T).tocoo()


def fit_map(x_PK: Tensor, y_PD: Tensor, weights_P: Tensor) -> Callable[[Tensor], Tensor]:
    """The map with the least weighted squared error: orthogonal Procrustes (Schönemann 1966) with scale and centers.

    Between spaces of different size the rotation has orthonormal rows (K < D) or columns (K > D).
    """
    share = (weights_P / weights_P.sum())[:, None]
    center_x, center_y = (share * x_PK).sum(dim=0), (share * y_PD).sum(dim=0)
    x, y = x_PK - center_x, y_PD - center_y
    left, values, right = torch.linalg.svd((x.T @ (share * y)).double(), full_matrices=False)
    rotation = (left @ right).float()
    spread = (share * (x @ rotation).square()).sum()
    scale = float(values.sum()) / float(spread) if spread > 0 else 0.0
    return lambda vectors: center_y + scale * (vectors - center_x) @ rotation


def _pairs_with_vectors(
    pairs: list[Pair], base: PreTrainedTokenizerBase, grown: PreTrainedTokenizerBase, known_N: Tensor
) -> tuple[list[list[int]], list[list[int]], Tensor]:
    """Old ids of the English sides, grown ids of the target sides, and weights [P] of the pairs whose target side has
    vectors (`pair_weights`)."""
    weights, kept = pair_weights(pairs), sorted(set(pairs))
    sources = encode_words(base, [pair.source for pair in kept])
    targets = encode_words(grown, [pair.target for pair in kept])
    usable = [
        (source, target, weights[pair])
        for pair, source, target in zip(kept, sources, targets, strict=True)
        if source and target and bool(known_N[target].all())
    ]
    if len(usable) < MIN_PAIRS:
        raise DataError(
            f"lexicon: {len(usable)} of {len(kept)} pairs consist of tokens that the text shows often enough, and "
            f"a map needs {MIN_PAIRS} or more; give a larger lexicon or more text"
        )
    return [s for s, _, _ in usable], [t for _, t, _ in usable], torch.tensor([w for _, _, w in usable])


def _means(encoded: list[list[int]], table: Tensor) -> Tensor:
    """The mean over each word's rows of a table."""
    return Mixture.of([mean_weights(ids) for ids in encoded]).times(table)
