"""How near a model's new rows lie to its English ones: nearest neighbours, before training and after.

    RUN/export (else RUN/align) model.safetensors, tokenizer.json --+
    RUN/align model.safetensors (the rows before training)          |
    RUN/vocab/new_tokens.tsv  RUN/align/rows.tsv                    +--> Rows
    RUN/lexicon/{clean,heldout}.tsv (what a word means)           --+

Of the weights only the embedding is read. English tokens are old ones that begin a word of three or more ASCII letters.
Shapes: V rows, D hidden size, E English tokens, N new tokens, S tokens drawn.
"""

import ast
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving.folder import EMBEDDINGS

MOST_ENGLISH = 20_000
"""English tokens among which neighbours are looked for. Byte pairs are numbered from the most frequent on."""

DRAWN = 500
"""Tokens of each kind in the means."""

ASKED, NEAREST = 24, 5
"""New tokens whose neighbours are listed, and how many of these."""

WORD_STARTS = ("Ġ", "▁")
"""What stands for a space before a token in byte-level and in SentencePiece vocabularies."""


Neighbours = tuple[tuple[str, float], ...]
"""English tokens nearest to a row by CSLS, nearest first, with their cosines."""


@dataclass(frozen=True)
class NewToken:
    """A new token and its nearest English tokens."""

    text: str
    row: str
    """How its row was made before training, such as "lexicon"; empty if not known."""
    meaning: str
    """A translation in the lexicon; empty if it has none."""
    neighbours: Neighbours
    before: Neighbours
    """Those of the row before training, among the base's; empty if that is not kept."""


@dataclass(frozen=True)
class Rows:
    """The new rows of one model among the English ones."""

    model: str
    """Name of the folder in the run."""
    counts: tuple[int, int]
    """English tokens compared, and new tokens."""
    lengths: tuple[float, float]
    """Median Euclidean length of the English and of the new rows."""
    nearest: tuple[float, float]
    """Mean cosine of a drawn English and of a drawn new row to the nearest English row other than itself."""
    listed: tuple[NewToken, ...]


def read_rows(run: Path) -> Rows | Absent:
    """Read the rows of a run's newest model.

    Raises:
        DataError: a file is there but damaged; it is named.
    """
    folder = next((run / name for name in ("export", "align") if any((run / name).glob("*.safetensors"))), None)
    if folder is None:
        return Absent("neither export nor align holds a model")
    for path in (run / "vocab/new_tokens.tsv", folder / "tokenizer.json"):
        if not path.is_file():
            return Absent(f"{path.relative_to(run)} is not there")
    new = _new_tokens(run / "vocab/new_tokens.tsv")
    embedding_VD = _embedding(folder)
    if embedding_VD is None:
        return Absent(f"{folder.name}: no embedding of a known name among the weights")
    if not new or max(new) >= len(embedding_VD):
        return Absent(f"{folder.name}: has no rows for the tokens of vocab/new_tokens.tsv")
    english = _english(folder / "tokenizer.json", min(new))
    if len(english) < 2:
        return Absent("the base tokenizer has no English words to compare with")
    english_ED, new_ND = (embedding_VD[list(ids)].float() for ids in (english, new))
    if not (english_ED.isfinite().all() and new_ND.isfinite().all()):
        return Absent(f"{folder.name}: the embedding holds numbers that are not finite")
    texts_E, texts_N = list(english.values()), list(new.values())
    drawn_E, drawn_N = (_spread(count, DRAWN) for count in (len(english), len(new)))
    unit_ED, unit_ND = _units(english_ED, new_ND)
    own_SE = unit_ED[drawn_E] @ unit_ED.T
    own_SE[torch.arange(len(drawn_E)), drawn_E] = -math.inf
    words = [i for i, text in enumerate(texts_N) if text.startswith(" ") and len(text) > 4 and text[1:].isalpha()]
    asked = [words[i] for i in _spread(len(words), ASKED)]
    near: list[list[Neighbours]] = [_near(unit_ED, unit_ND, asked, drawn_N, texts_E), [()] * len(asked)]
    before_VD = None if folder.name == "align" else _embedding(run / "align")
    if before_VD is not None and before_VD.shape == embedding_VD.shape and before_VD.isfinite().all():
        before = _units(*(before_VD[list(ids)].float() for ids in (english, new)))
        near[1] = _near(*before, asked, drawn_N, texts_E)
    origin, meaning = _table(run / "align/rows.tsv"), _meanings(run)
    ids_N = list(new)
    listed = tuple(
        NewToken(
            texts_N[i].strip(),
            origin.get(ids_N[i], ["", ""])[1],
            meaning.get(texts_N[i].strip().lower(), ""),
            after,
            untrained,
        )
        for i, after, untrained in zip(asked, *near, strict=True)
    )
    return Rows(
        model=folder.name,
        counts=(len(english), len(new)),
        lengths=(float(english_ED.norm(dim=1).median()), float(new_ND.norm(dim=1).median())),
        nearest=(float(own_SE.amax(1).mean()), float((unit_ND[drawn_N] @ unit_ED.T).amax(1).mean())),
        listed=listed,
    )


def _units(english_ED: Tensor, new_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at length 1, less the mean English row: all rows of a model share a large common part, with which every
    cosine would be high."""
    mean_D = english_ED.mean(0)
    english, new = (torch.nn.functional.normalize(rows - mean_D, dim=1) for rows in (english_ED, new_ND))
    return english, new


def _near(unit_ED: Tensor, unit_ND: Tensor, asked: list[int], drawn: list[int], texts_E: list[str]) -> list[Neighbours]:
    """The English tokens nearest to those asked, by CSLS (Conneau et al. 2018, 1710.04087, section 2.3) but for the
    term that is equal for all English tokens."""
    hub_E = (unit_ED @ unit_ND[drawn].T).topk(min(10, len(drawn)), dim=1).values.mean(1)
    cosines_SE = unit_ND[asked] @ unit_ED.T
    ids_SK = (2 * cosines_SE - hub_E).topk(min(NEAREST, len(texts_E)), dim=1).indices
    cosines_SK = cosines_SE.gather(1, ids_SK)
    return [
        tuple((texts_E[k], cosine) for k, cosine in zip(ids, cosines, strict=True))
        for ids, cosines in zip(ids_SK.tolist(), cosines_SK.tolist(), strict=True)
    ]


def _embedding(folder: Path) -> Tensor | None:
    """The embedding, [V, D], in the file's dtype."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.endswith(EMBEDDINGS):
                        return file.get_tensor(name)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: damaged: {error}; do the stage {folder.name} again") from error
    return None


def _english(path: Path, num_old: int) -> dict[int, str]:
    """English tokens by id, without their spaces."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise DataError(f"{path}: not readable as a tokenizer ({error}); do the stage again") from error
    found: dict[int, str] = {}
    for i in range(num_old):
        text = tokenizer.id_to_token(i) or ""
        word = text[1:]
        if text.startswith(WORD_STARTS) and len(word) > 2 and word.isascii() and word.isalpha():
            found[i] = word
            if len(found) == MOST_ENGLISH:
                break
    return found


def _new_tokens(path: Path) -> dict[int, str]:
    """New tokens by id, as the text that they stand for."""
    try:
        return {i: str(ast.literal_eval(cells[0])) for i, cells in _table(path).items()}
    except (ValueError, SyntaxError, IndexError) as error:
        raise DataError(f"{path}: not a table of new tokens ({error}); do the stage vocab again") from error


def _table(path: Path) -> dict[int, list[str]]:
    """The lines of a table with a heading, by the id in their first column; empty if there is no file."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:]
        return {int(cells[0]): cells[1:] for line in lines if line and (cells := line.split("\t"))}
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: damaged ({error}); do the stage {path.parent.name} again") from error


def _meanings(run: Path) -> dict[str, str]:
    """The first English word of each translation in the lexicon, training entries and held-out ones."""
    found: dict[str, str] = {}
    for name in ("clean.tsv", "heldout.tsv"):
        path = run / "lexicon" / name
        for pair in read_pairs(path) if path.is_file() else ():
            found.setdefault(pair.target.lower(), pair.source)
    return found


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spread, so that frequent and rare tokens are both among them."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]
