"""The clone of the tokens is the tokens of the clone."""

import json
from pathlib import Path

import pytest

from prealign_cpt.lab.clone.tokenizer import Cloner, Mirror, make_cloner, mirror_tokenizer
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
    original = {token.id: token.original for token in mirror.new_tokens}
    assert mirror.mismatch == 0 and all(number is not None for number in original.values())
    cloned = 0
    for text in TEXTS:
        clone = encode_text(new, cloner.text(text))
        assert [original.get(number, number) for number in clone] == encode_text(old, text)
        assert new.decode(clone, clean_up_tokenization_spaces=False) == cloner.text(text)
        cloned += sum(number in original for number in clone)
    assert cloned == sum(token.count for token in mirror.new_tokens) > 150
    assert sum(len(encode_text(old, text)) for text in TEXTS) - mirror.text_tokens in (0, 1), (
        "an é may be spelled in two bytes"
    )


def test_english_and_its_ids_stay(made):
    base, _, mirror, out = made
    old, new = load_tokenizer(base), load_tokenizer(out)
    vocab, grown = old.get_vocab(), new.get_vocab()
    assert vocab.items() <= grown.items() and len(grown) == len(vocab) + len(mirror.new_tokens)
    assert [token.id for token in mirror.new_tokens] == list(range(len(old), len(new)))
    for text in [*TEXTS, "Größe und Straße"]:
        assert encode_text(new, text) == encode_text(old, text)


def test_only_tokens_of_the_text_and_their_parts_are_cloned(made):
    base, cloner, mirror, _ = made
    used = {number for text in TEXTS for number in encode_text(load_tokenizer(base), text)}
    assert {token.original for token in mirror.new_tokens if token.count} <= used
    letters = set(cloner.letters.values())
    whole = [token for token in mirror.new_tokens if len(token.text) > 1]
    assert whole and all(letters & set(token.text) for token in mirror.new_tokens)


def test_a_limited_vocabulary_takes_the_most_used(tmp_path: Path):
    base = byte_level(tmp_path / "base", llama3=False)
    cloner = make_cloner(base, TEXTS)
    full = mirror_tokenizer(base, cloner, TEXTS, 0, tmp_path / "full")
    small = mirror_tokenizer(base, cloner, TEXTS, 10, tmp_path / "small")
    assert len(small.new_tokens) < len(full.new_tokens) and small.mismatch > 0 and small.text_tokens > full.text_tokens
    most = sorted(full.new_tokens, key=lambda token: -token.count)[:5]
    assert {token.text for token in most} <= {token.text for token in small.new_tokens}


def test_letters_of_four_bytes(tmp_path: Path):
    """Their parts are tokens without an original, built by rules behind all of the base's."""
    base = byte_level(tmp_path / "base", llama3=False)
    texts = [*TEXTS, "Ա Ⰰ"]  # keeps the first two scripts from being chosen
    cloner = make_cloner(base, texts)
    mirror = mirror_tokenizer(base, cloner, TEXTS, 0, tmp_path / "grown")
    assert cloner.script == "Deseret" and mirror.mismatch == 0
    parts = [token for token in mirror.new_tokens if token.original is None]
    assert parts and all(token.text == "\ufffd" and not token.count for token in parts)
    content = json.loads((tmp_path / "grown" / "tokenizer.json").read_text())
    old = json.loads((base / "tokenizer.json").read_text())["model"]["merges"]
    assert [tuple(rule) for rule in content["model"]["merges"][: len(old)]] == [tuple(rule) for rule in old]


def test_text_without_letters(tmp_path: Path):
    base = byte_level(tmp_path / "base", llama3=False)
    with pytest.raises(DataError, match="no ASCII letters"):
        mirror_tokenizer(base, make_cloner(base, ["12"]), ["12 34"], 0, tmp_path / "grown")
