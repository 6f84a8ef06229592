"""What extension is for: how many tokens the test text takes, by a run's tokenizer and by the base's."""

from pathlib import Path

from transformers import AutoTokenizer

from prealign_cpt.evaluate.tokenizer import words_of
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import encode_plain
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.manifest import sha256
from prealign_cpt.text.stage import held_out_documents

_COUNTED: dict[tuple[str, str], int] = {}
"""Tokens of a text, by digests of tokenizer and text."""


def spelling(recipe: Recipe, grown: Path) -> dict[str, float]:
    """`tokens_per_word` (words by UAX #29) and `bytes_per_token` of the whole test text, the same of the base's
    tokenizer as `base_...`, and `share_of_base_tokens`. No start or end tokens are counted.

    Args:
        grown: a folder with the run's tokenizer.
    """
    path = recipe.held_out("test", "target")
    assert path
    documents, digest = list(held_out_documents(recipe, "test", "target")), sha256(path)
    words = sum(len(words_of(document)) for document in documents)
    size = sum(len(document.encode()) for document in documents)
    counts = []
    for folder in (grown, resolve_base(recipe.base.model)):
        key = (sha256(folder / "tokenizer.json"), digest)
        if key not in _COUNTED:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            _COUNTED[key] = sum(map(len, encode_plain(tokenizer, documents)))
        counts.append(_COUNTED[key])
    own, base = counts
    return {
        "tokens_per_word": own / words,
        "bytes_per_token": size / own,
        "base_tokens_per_word": base / words,
        "base_bytes_per_token": size / base,
        "share_of_base_tokens": own / base,
    }
