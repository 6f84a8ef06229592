"""The front of the initializers: `align.init` of the recipe to rows for both tables.

Shapes: V old tokens, M new tokens, D hidden size.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.init.file import read_rows
from prealign_cpt.align.init.lexicon import lexicon_mixture
from prealign_cpt.align.init.mixture import Mixture
from prealign_cpt.align.init.neighbours import focus_mixture, wechsel_mixture
from prealign_cpt.align.init.statistics import TextStatistics
from prealign_cpt.align.init.subword import subword_mixture
from prealign_cpt.align.init.tables import StaticRows
from prealign_cpt.align.init.vecmap import make_vecmap, scaled_to
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import DataError, NumericError


def static_rows(
    align: Align,
    texts: list[str],
    base_tokenizer: PreTrainedTokenizerBase,
    grown_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    input_VD: Tensor,
    output_VD: Tensor | None,
    statistics: TextStatistics | None = None,
    rows_file: Path | None = None,
) -> StaticRows:
    """Rows for the new tokens; never random, and the same for equal arguments.

    Args:
        align: `init` and its knobs `lexicon_weight`, `shrink`, `match_norm`; nothing else of it is read.
        texts: the decoded new tokens in the order of their ids, a leading space included where the token has one.
        grown_tokenizer: the base tokenizer and the new tokens behind it.
        input_VD, output_VD: fp32 [V, D], the rows of tokens that exist; `output_VD` None for a tied head.
        statistics: of the training texts; needed for "vecmap", "focus" and "wechsel", and for English word frequencies.
        rows_file: where `align.rows` lies; needed for "file".

    Raises:
        DataError, MissingInputError: the lexicon, the text or the rows file cannot serve; see the modules beside.
        NumericError: an old row is not finite.
    """
    _check_finite(input_VD, output_VD)
    if not texts:
        empty = torch.empty(0, input_VD.shape[1])
        return StaticRows(empty, empty if output_VD is None else empty.clone(), [])
    if align.init == "file":
        assert rows_file is not None, "the recipe has no file of rows"
        own, head = read_rows(rows_file, len(texts), input_VD.shape[1], output_VD is None)
        provenance = ["file"] * len(texts)
    elif align.init == "vecmap":
        own, head, provenance = _vecmap(texts, base_tokenizer, grown_tokenizer, pairs, input_VD, output_VD, statistics)
    else:
        mixture, provenance = _mixture(align, texts, base_tokenizer, grown_tokenizer, pairs, statistics)
        own = mixture.times(input_VD)
        head = own if output_VD is None else mixture.times(output_VD)
    head = _head_rows(head, input_VD if output_VD is None else output_VD, align)
    # A tied model has one table, which is its head's.
    own = head if output_VD is None else own
    assert own.isfinite().all() and head.isfinite().all(), "finite rows cannot mix to others"
    return StaticRows(own, head, provenance)


def _mixture(
    align: Align,
    texts: list[str],
    base: PreTrainedTokenizerBase,
    grown: PreTrainedTokenizerBase,
    pairs: list[Pair],
    statistics: TextStatistics | None,
) -> tuple[Mixture, list[str]]:
    """Weights of old rows, and where they come from."""
    if align.init == "mean":
        return Mixture.of([{} for _ in texts]), ["mean"] * len(texts)
    subword = subword_mixture(texts, base, grown)
    if align.init == "subword" or (align.init == "subword+lexicon" and align.lexicon_weight == 0):
        return subword, _provenance(subword)
    if align.init in ("lexicon", "subword+lexicon"):
        listed = lexicon_mixture(texts, base, pairs, statistics)
        if align.init == "lexicon" and not len(listed.rows_N):
            raise DataError(
                f"lexicon: none of the {len(texts)} new tokens is a word that it lists ({len(pairs)} pairs); give a "
                "larger lexicon of the target language, or choose another align.init"
            )
        share = align.lexicon_weight if align.init == "subword+lexicon" else 1.0
        return listed.over(subword, share), _provenance(subword, listed, "lexicon")
    assert statistics is not None, f"{align.init} needs text"
    if align.init == "wechsel":
        near = wechsel_mixture(base, grown, pairs, statistics)
    else:
        assert align.init == "focus", align.init
        near = focus_mixture(base, grown, statistics)
    return near.over(subword), _provenance(subword, near, "neighbour")


def _vecmap(
    texts: list[str],
    base: PreTrainedTokenizerBase,
    grown: PreTrainedTokenizerBase,
    pairs: list[Pair],
    input_VD: Tensor,
    output_VD: Tensor | None,
    statistics: TextStatistics | None,
) -> tuple[Tensor, Tensor, list[str]]:
    """Input rows, output rows and provenance; tokens without a vector get subword means."""
    assert statistics is not None, "vecmap needs text"
    vecmap = make_vecmap(base, grown, pairs, statistics)
    subword = subword_mixture(texts, base, grown)
    tables = []
    for table in (input_VD,) if output_VD is None else (input_VD, output_VD):
        rows = subword.times(table)
        rows[vecmap.covered] = vecmap.rows(table)
        tables.append(rows)
    provenance = _provenance(subword)
    for m in vecmap.covered.tolist():
        provenance[m] = "mapped"
    return tables[0], tables[-1], provenance


def _provenance(subword: Mixture, better: Mixture | None = None, name: str = "") -> list[str]:
    """Per token `name` where the better mixture covers it, else what its subword mean is."""
    pieces = torch.bincount(subword.rows_N, minlength=subword.size)
    whole = torch.zeros(subword.size).index_add(0, subword.rows_N, (subword.weights_N == 1).float()) > 0
    kinds = ["fallback" if not n else "copied" if one else "subword" for n, one in zip(pieces, whole, strict=True)]
    if better is not None:
        for m in better.covered_M.nonzero().flatten().tolist():
            kinds[m] = name
    return kinds


def _head_rows(rows_MD: Tensor, table_VD: Tensor, align: Align) -> Tensor:
    """Norm-matched if asked, then pulled towards the mean row: less than all of it takes less from English."""
    if align.match_norm:
        rows_MD = scaled_to(rows_MD, table_VD)
    if align.shrink == 1.0:
        return rows_MD
    return torch.lerp(table_VD.mean(dim=0), rows_MD, align.shrink)


def _check_finite(input_VD: Tensor, output_VD: Tensor | None) -> None:
    for name, rows in (("input", input_VD), ("output", output_VD)):
        if rows is not None and not rows.isfinite().all():
            bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()[:5].tolist()
            raise NumericError(f"base.model: {name} rows {bad} are not finite; use another copy of the model")
