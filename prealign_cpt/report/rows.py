"""How near a model's new rows lie to its English ones: nearest neighbours, before training and after.

    RUN/export (else RUN/align) model.safetensors, tokenizer.json --+
    RUN/align model.safetensors (the rows before training)          |
    RUN/vocab/new_tokens.tsv  RUN/align/rows.tsv                    +--> Rows
    RUN/lexicon/{clean,heldout}.tsv (what a word means)           --+

Of the weights only the embedding is read. English tokens are old ones that begin a word of three or more ASCII letters.
Shapes: V rows, D hidden size, E English tokens, N new tokens, S tokens drawn, L tokens listed, K nearest tokens.
"""

import ast
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.report.document import reading
from prealign_cpt.serving.folder import EMBEDDINGS
from prealign_cpt.text.scripts import is_letters, is_unspaced

MOST_ENGLISH = 20_000
"""English tokens among which neighbours are looked for. Byte pairs are numbered from the most frequent on."""

DRAWN = 500
"""Tokens of each kind in the means."""

LISTED, NEAREST = 24, 5
"""New tokens whose neighbours are listed, and how many of these."""

WORD_STARTS = ("Ġ", "▁")
"""What stands for a space before a token in byte-level and in SentencePiece vocabularies."""

Neighbours = list[tuple[str, float]]
"""English tokens nearest to a row by CSLS, nearest first, with their cosines."""


class NewToken(NamedTuple):
    """A new token, how its row was made before training ("" if not known), a translation in the lexicon ("" if it has
    none), and the neighbours of its row now and before training (none if that row is not kept)."""

    text: str
    row: str
    meaning: str
    neighbours: Neighbours
    before: Neighbours


class Rows(NamedTuple):
    """The new rows of one model, which is named by its folder in the run, among the English ones. Of pairs the first is
    of English rows: tokens compared, median Euclidean length, mean cosine to the nearest English row but itself."""

    model: str
    counts: tuple[int, int]
    lengths: tuple[float, float]
    nearest: tuple[float, float]
    listed: list[NewToken]


def read_rows(run: Path) -> Rows | Absent:
    """Read the rows of a run's newest model; a file that is there but damaged raises `DataError`."""
    folder = next((run / name for name in ("export", "align") if any((run / name).glob("*.safetensors"))), None)
    if folder is None:
        return Absent("neither export nor align holds a model")
    for path in (run / "vocab/new_tokens.tsv", folder / "tokenizer.json"):
        if not path.is_file():
            return Absent(f"{path.relative_to(run)} is not there")
    with reading(run / "vocab/new_tokens.tsv"):
        new = {n: str(ast.literal_eval(text)) for n, text in _column(run / "vocab/new_tokens.tsv", "text").items()}
    embedding_VD = _embedding(folder)
    if embedding_VD is None:
        return Absent(f"{folder.name}: no embedding of a known name among the weights")
    if not new or max(new) >= len(embedding_VD):
        return Absent(f"{folder.name}: has no rows for the tokens of vocab/new_tokens.tsv")
    english = _english(folder / "tokenizer.json", min(new))
    if len(english) < 2:
        return Absent("the base tokenizer has no English words to compare with")
    english_ED, new_ND = embedding_VD[list(english)].float(), embedding_VD[list(new)].float()
    if not (english_ED.isfinite().all() and new_ND.isfinite().all()):
        return Absent(f"{folder.name}: the embedding holds numbers that are not finite")
    words = [n for n, text in enumerate(new.values()) if _is_word(text)]
    listed = [words[n] for n in _spread(len(words), LISTED)]
    texts = list(english.values())
    nearest, after = _near(english_ED, new_ND, listed, texts)
    before: list[Neighbours] = [[]] * len(listed)
    before_VD = None if folder.name == "align" else _embedding(run / "align")
    if before_VD is not None and before_VD.shape == embedding_VD.shape and before_VD.isfinite().all():
        before = _near(before_VD[list(english)].float(), before_VD[list(new)].float(), listed, texts)[1]
    lexicon = [path for path in (run / "lexicon/clean.tsv", run / "lexicon/heldout.tsv") if path.is_file()]
    pairs = [pair for path in lexicon for pair in read_pairs(path)]
    meaning = {pair.target.lower(): pair.source for pair in reversed(pairs)}  # the first of several
    ids, origin = list(new), _column(run / "align/rows.tsv", "row")
    return Rows(
        model=folder.name,
        counts=(len(english), len(new)),
        lengths=(float(english_ED.norm(dim=1).median()), float(new_ND.norm(dim=1).median())),
        nearest=nearest,
        listed=[
            NewToken(text := new[ids[n]].strip(), origin.get(ids[n], ""), meaning.get(text.lower(), ""), *neighbours)
            for n, *neighbours in zip(listed, after, before, strict=True)
        ],
    )


def _near(
    english_ED: Tensor, new_ND: Tensor, listed: list[int], texts: list[str]
) -> tuple[tuple[float, float], list[Neighbours]]:
    """Mean cosines to the nearest English row (`Rows.nearest`), and the neighbours of the new tokens to list.

    Rows are taken less the mean English row: all rows of a model share a large common part, with which every cosine
    would be high. CSLS (Conneau et al. 2018, 1710.04087, section 2.3) is taken without the term that is equal for all
    English tokens.
    """
    mean_D = english_ED.mean(0)
    unit_ED, unit_ND = (torch.nn.functional.normalize(rows - mean_D, dim=1) for rows in (english_ED, new_ND))
    drawn_S, new_SD = torch.tensor(_spread(len(unit_ED), DRAWN)), unit_ND[_spread(len(unit_ND), DRAWN)]
    english_SE, new_SE = unit_ED[drawn_S] @ unit_ED.T, new_SD @ unit_ED.T
    english_SE[torch.arange(len(drawn_S)), drawn_S] = -math.inf
    hub_E = new_SE.T.topk(min(10, len(new_SD)), dim=1).values.mean(1)
    cosines_LE = unit_ND[listed] @ unit_ED.T
    ids_LK = (2 * cosines_LE - hub_E).topk(min(NEAREST, len(texts)), dim=1).indices
    near = [
        [(texts[n], float(cosines_E[n])) for n in ids.tolist()]
        for ids, cosines_E in zip(ids_LK, cosines_LE, strict=True)
    ]
    return (float(english_SE.amax(1).mean()), float(new_SE.amax(1).mean())), near


def _is_word(text: str) -> bool:
    """Whether a token is worth a look: a word of four letters, or of two in a script without spaces."""
    bare = is_unspaced(text)
    return is_letters(text.removeprefix(" ")) and len(text) > (1 if bare else 4) and (bare or text.startswith(" "))


def _embedding(folder: Path) -> Tensor | None:
    """The embedding, [V, D], in the file's dtype."""
    for path in sorted(folder.glob("*.safetensors")):
        with reading(path), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith(EMBEDDINGS):
                    return file.get_tensor(name)  # type: ignore[no-any-return]
    return None


def _english(path: Path, num_old: int) -> dict[int, str]:
    """English tokens by id, without their spaces."""
    with reading(path):
        tokenizer = Tokenizer.from_file(str(path))
    texts = {n: text for n in range(num_old) if (text := tokenizer.id_to_token(n)) and text.startswith(WORD_STARTS)}
    words = {n: text[1:] for n, text in texts.items() if len(text) > 3 and text[1:].isascii() and text[1:].isalpha()}
    return dict(list(words.items())[:MOST_ENGLISH])


def _column(path: Path, name: str) -> dict[int, str]:
    """A column of a table of tokens by their ids; empty if there is no file."""
    if not path.is_file():
        return {}
    with reading(path):
        head, *lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
        column = head.split("\t").index(name)
        return {int(line.split("\t")[0]): line.split("\t")[column] for line in lines}


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spread, so that frequent and rare tokens are both among them."""
    return [n * count // min(count, most) for n in range(min(count, most))]
