"""The clone of the tokens is the tokens of the clone."""

import json
from pathlib import Path

import pytest

from prealign_cpt.lab.clone.script import Cloner
from prealign_cpt.lab.clone.tokenizer import Mirror, make_cloner, mirror_tokenizer
from prealign_cpt.model.tokens import encode_text
from prealign_cpt.run.errors import DataError
from prealign_cpt.vocab.grow import load_tokenizer
from tests.vocab.conftest import ENGLISH, byte_level, sentence_piece

TEXTS = [
    *ENGLISH,
    "In 1912 Paris isn't café; (the 'hill') JOHN'S\n\n  The   end.",
    "We're there, they'll say: 'tis so!",
]
KINDS = {
    "bytelevel": lambda folder: byte_level(folder, llama3=False),
    "llama3": lambda folder: byte_level(folder, llama3=True),
    "spm": sentence_piece,
}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory) -> tuple[Path, Cloner, Mirror, Path]:
    root = tmp_path_factory.mktemp(request.param)
    base = KINDS[request.param](root / "base")
    cloner = make_cloner(base, TEXTS)
    return base, cloner, mirror_tokenizer(base, cloner, TEXTS, 0, root / "grown"), root / "grown"


def test_the_clone_is_tokenized_as_english_is(made):
    base, cloner, mirror, out = made
    old, new = load_tokenizer(base), load_tokenizer(out)
    original = {piece.id: piece.original for piece in mirror.pieces}
    assert mirror.mismatch == 0 and all(number is not None for number in original.values())
    cloned = 0
    for text in TEXTS:
        clone = encode_text(new, cloner.text(text))
        assert [original.get(number, number) for number in clone] == encode_text(old, text)
        assert new.decode(clone, clean_up_tokenization_spaces=False) == cloner.text(text)
        cloned += sum(number in original for number in clone)
    assert cloned == sum(piece.count for piece in mirror.pieces) > 150
    assert sum(len(encode_text(old, text)) for text in TEXTS) - mirror.tokens in (0, 1), (
        "an é may be spelled in two bytes"
    )


def test_english_and_its_ids_stay(made):
    base, _, mirror, out = made
    old, new = load_tokenizer(base), load_tokenizer(out)
    vocab, grown = old.get_vocab(), new.get_vocab()
    assert vocab.items() <= grown.items() and len(grown) == len(vocab) + len(mirror.pieces)
    assert [piece.id for piece in mirror.pieces] == list(range(len(old), len(new)))
    for text in [*TEXTS, "Größe und Straße"]:
        assert encode_text(new, text) == encode_text(old, text)


def test_only_tokens_of_the_text_and_their_parts_are_cloned(made):
    base, cloner, mirror, _ = made
    used = {number for text in TEXTS for number in encode_text(load_tokenizer(base), text)}
    assert {piece.original for piece in mirror.pieces if piece.count} <= used
    letters = set(cloner.letters.values())
    whole = [piece for piece in mirror.pieces if len(piece.text) > 1]
    assert whole and all(letters & set(piece.text) for piece in mirror.pieces)


def test_a_limited_vocabulary_takes_the_most_used(tmp_path: Path):
    base = byte_level(tmp_path / "base", llama3=False)
    cloner = make_cloner(base, TEXTS)
    full = mirror_tokenizer(base, cloner, TEXTS, 0, tmp_path / "full")
    small = mirror_tokenizer(base, cloner, TEXTS, 10, tmp_path / "small")
    assert len(small.pieces) < len(full.pieces) and small.mismatch > 0 and small.tokens > full.tokens
    most = sorted(full.pieces, key=lambda piece: -piece.count)[:5]
    assert {piece.text for piece in most} <= {piece.text for piece in small.pieces}


def test_letters_of_four_bytes(tmp_path: Path):
    """Their parts are tokens without an original, built by rules behind all of the base's."""
    base = byte_level(tmp_path / "base", llama3=False)
    texts = [*TEXTS, "Ա Ⰰ"]  # keeps the first two scripts from being chosen
    cloner = make_cloner(base, texts)
    mirror = mirror_tokenizer(base, cloner, TEXTS, 0, tmp_path / "grown")
    assert cloner.script.name == "Deseret" and mirror.mismatch == 0
    parts = [piece for piece in mirror.pieces if piece.original is None]
    assert parts and all(piece.text == "\ufffd" and not piece.count for piece in parts)
    content = json.loads((tmp_path / "grown" / "tokenizer.json").read_text())
    old = json.loads((base / "tokenizer.json").read_text())["model"]["merges"]
    assert [tuple(rule) for rule in content["model"]["merges"][: len(old)]] == [tuple(rule) for rule in old]


def test_text_without_letters(tmp_path: Path):
    base = byte_level(tmp_path / "base", llama3=False)
    with pytest.raises(DataError, match="no ASCII letters"):
        mirror_tokenizer(base, make_cloner(base, ["12"]), ["12 34"], 0, tmp_path / "grown")
