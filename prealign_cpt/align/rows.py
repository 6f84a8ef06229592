"""Static rows: `align.init` of the recipe to rows for both tables, which are then written into the model.

texts ─► old pieces ───┐                                                    (pieces: one for each table)
pairs ─► translations ─┴─► weights of old rows, sparse [M, V] ─► times each table ─► rows
file ──────────────────────────────────────────────────────────────────────────────► rows

No row is ever random: a token that a method does not cover gets its subword mean, and one without pieces the mean of
all old rows; `StaticRows.provenance` tells which. A rows file is safetensors with `input` [M, D] and, for a model whose
head is not tied, `output` [M, D]: row m belongs to the token with id V + m.
Shapes: V old tokens, M new tokens, D hidden size.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.lexicon_rows import TextStatistics, lexicon_mixture
from prealign_cpt.align.mixture import Mixture, first_piece_mixture, old_pieces, subword_mixture
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import DataError, MissingInputError, RecipeError

FIRST_PIECE = 0.75
"""Share of the first piece's row in an output row of init "pieces"."""


@dataclass(frozen=True)
class StaticRows:
    """Rows of the new tokens, in the order of their ids.

    Attributes:
        input_MD: fp32 [M, D].
        output_MD: fp32 [M, D]; the same tensor as `input_MD` when the head is tied.
        provenance: where each row comes from: "pieces", "copied" (it is one old token's), "subword", "lexicon" (alone
            or mixed with subwords), "mean" (asked for), "fallback" (the mean, since the token has no pieces) or "file".
    """

    input_MD: Tensor  # noqa: N815
    output_MD: Tensor  # noqa: N815
    provenance: list[str]


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

    For "pieces" the input rows are subword means; the output rows are FIRST_PIECE of the first piece's row, which is
    what the base predicts where the new token stands, and the rest of the mean.

    Args:
        align: `init` and `lexicon_weight`; nothing else of it is read.
        texts: the decoded new tokens in the order of their ids, a leading space included where the token has one.
        grown_tokenizer: the base tokenizer and the new tokens behind it.
        input_VD, output_VD: fp32 [V, D], finite, the rows of tokens that exist; `output_VD` None for a tied head.
        statistics: of the training texts, for English word frequencies.
        rows_file: where `align.rows` lies; needed for "file".

    Raises:
        DataError, MissingInputError: the lexicon or the rows file cannot serve.
        RecipeError: "pieces" with a tied head.
    """
    if not texts:
        empty = torch.empty(0, input_VD.shape[1])
        return StaticRows(empty, empty if output_VD is None else empty.clone(), [])
    if align.init == "file":
        assert rows_file is not None, "the recipe has no file of rows"
        rows, head = read_rows(rows_file, len(texts), input_VD.shape[1], output_VD is None)
        return StaticRows(rows, head, ["file"] * len(texts))
    if align.init == "pieces":
        if output_VD is None:
            raise RecipeError(
                'align.untie: init "pieces" makes two rows for each new token, so it needs a head of its own; leave '
                'it at "auto", or choose another align.init'
            )
        pieces = old_pieces(texts, base_tokenizer, grown_tokenizer)
        kinds = ["pieces" if ids else "fallback" for ids in pieces]
        output = first_piece_mixture(pieces, FIRST_PIECE)
        return StaticRows(subword_mixture(pieces).times(input_VD), output.times(output_VD), kinds)
    mixture, provenance = _mixture(align, texts, base_tokenizer, grown_tokenizer, pairs, statistics)
    rows = mixture.times(input_VD)
    head = rows if output_VD is None else mixture.times(output_VD)
    assert rows.isfinite().all() and head.isfinite().all(), "finite rows cannot mix to others"
    return StaticRows(rows, head, provenance)


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
    pieces = old_pieces(texts, base, grown)
    subword = subword_mixture(pieces)
    provenance = ["fallback" if not ids else "copied" if len(set(ids)) == 1 else "subword" for ids in pieces]
    share = 1.0 if align.init == "lexicon" else align.lexicon_weight
    if align.init == "subword" or share == 0:
        return subword, provenance
    listed = lexicon_mixture(texts, base, pairs, statistics)
    if align.init == "lexicon" and not len(listed.rows_N):
        raise DataError(
            f"lexicon: none of the {len(texts)} new tokens is a word that it lists ({len(pairs)} pairs); give a "
            "larger lexicon of the target language, or choose another align.init"
        )
    for m in listed.covered_M.nonzero().flatten().tolist():
        provenance[m] = "lexicon"
    return listed.over(subword, share), provenance


def old_tables(model: PreTrainedModel, num_old: int) -> tuple[Tensor, Tensor | None]:
    """The old tokens' input rows and, if the head is not tied, output rows; fp32 [V, D] on the CPU."""
    inputs = model.get_input_embeddings().weight
    outputs = model.get_output_embeddings().weight
    return (
        inputs.detach()[:num_old].float().cpu(),
        None if outputs is inputs else outputs.detach()[:num_old].float().cpu(),
    )


@torch.no_grad()
def write_rows(model: PreTrainedModel, num_old: int, rows: StaticRows) -> None:
    """Put the rows into the model's tables behind the old ones, in its own dtype, in place."""
    for weight, values in (
        (model.get_input_embeddings().weight, rows.input_MD),
        (model.get_output_embeddings().weight, rows.output_MD),
    ):
        weight[num_old : num_old + len(values)] = values.to(weight)


def read_rows(path: Path, num_new: int, hidden: int, tied: bool) -> tuple[Tensor, Tensor]:
    """Input and output rows of a file, fp32 [M, D]; the same tensor if the head is tied.

    Raises:
        MissingInputError: no such file.
        DataError: not safetensors; a tensor is missing, or one too many; or its shape, dtype or values are wrong.
    """
    if not path.is_file():
        raise MissingInputError(f"align.rows: {path}: no such file; write it first, or choose another align.init")
    expected = ["input"] if tied else ["input", "output"]
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            if names != expected:
                raise DataError(
                    f"{path}: holds {', '.join(names) or 'nothing'}; expected {' and '.join(expected)}, since the "
                    f"head is {'tied' if tied else 'not tied'}"
                )
            rows = [_checked(path, name, file.get_tensor(name), num_new, hidden) for name in expected]
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}); write it again") from error
    return rows[0], rows[-1]


def _checked(path: Path, name: str, rows: Tensor, num_new: int, hidden: int) -> Tensor:
    if not rows.is_floating_point():
        raise DataError(f"{path}: {name} is {rows.dtype}, expected floating point; convert it to float32")
    if list(rows.shape) != [num_new, hidden]:
        raise DataError(
            f"{path}: {name} is {list(rows.shape)}, expected [{num_new}, {hidden}] (new tokens, hidden size); make it "
            "for this base model and this grown tokenizer"
        )
    rows = rows.float()
    bad = (~rows.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(f"{path}: {name} is not finite in {len(bad)} rows, the first {bad[:5]}; make the file again")
    return rows
