"""Whole words as new tokens, looked up before the merges."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from prealign_cpt.model.tokens import encode_text
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer, unreachable
from prealign_cpt.vocab.words import LEAST, is_word, learn_words

from .conftest import ENGLISH, TARGET

TEXT = [line for line in TARGET["german"] for _ in range(LEAST)]


def test_those_come_first_that_save_most():
    words = {
        ("a", "b"): 9,
        ("a", "b", "c", "d"): 4,
        ("x", "y", "z"): LEAST - 1,
        ("one",): 50,
        ("g", "u"): 30,
        ("7", "8"): 9,
    }
    found = learn_words(words, [("g", "u")], str, 10)
    assert {string: piece.count for string, piece in found.items()} == {"abcd": 12, "ab": 9}
    assert list(found) == ["abcd", "ab"] and list(learn_words(words, [], str, 1)) == ["gu"]


@pytest.mark.parametrize(("text", "yes"), [(" Haus", True), ("बात", True), ("a", False), (" a", False), ("ab ", False),
                                           ("a1", False), ("  ab", False), ("l'eau", False)])  # fmt: skip
def test_what_a_word_is(text: str, yes: bool):
    assert is_word(text) is yes


@pytest.mark.parametrize("family", ["bytelevel", "llama3"])
def test_words_become_tokens_and_nothing_else_changes(family: str, bases: dict[str, Path], tmp_path: Path):
    growth = grow_tokenizer(bases[family], TEXT, ENGLISH, 40, tmp_path / "out", "auto")
    base, new = load_tokenizer(bases[family]), load_tokenizer(tmp_path / "out")
    assert growth.words
    texts = {token.text for token in growth.tokens}
    assert {" Brücke", " Familie", " Bücher"} <= texts and len(texts) > 10
    assert not unreachable(new, [token.id for token in growth.tokens])
    for token in growth.tokens:
        assert new.decode([token.id]) == token.text and (token.left, token.right) == (None, None)
        assert encode_text(new, f"x{token.text}") == [*encode_text(new, "x"), token.id] or not token.text.startswith(
            " "
        )
        # No part of the word is a token on the way: any other word keeps the base's tokens.
        assert encode_text(new, f"{token.text}xq") == encode_text(base, f"{token.text}xq")
    for text in [*ENGLISH, *" ".join(ENGLISH).split()]:
        assert encode_text(new, text) == encode_text(base, text)
    content = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["model"]
    assert content["ignore_merges"] is True
    assert len(content["merges"]) == len(json.loads((bases[family] / "tokenizer.json").read_text())["model"]["merges"])


def test_a_word_of_one_document_is_no_token(bases: dict[str, Path], tmp_path: Path):
    documents = [f"Nyumba {i} kubwa iko karibu na mto." for i in range(30)]
    documents[7] += " Zanzibar" * 50
    for count, known in ((30, False), (15, True)):
        growth = grow_tokenizer(bases["llama3"], documents[:count], ENGLISH, 40, tmp_path / str(count), "words")
        assert (" Zanzibar" in {token.text for token in growth.tokens}) is known, "of few documents each may be one"


def test_where_words_cannot_be_looked_up(bases: dict[str, Path], tmp_path: Path):
    with pytest.raises(RecipeError, match=r'vocab\.kind: .*cannot look whole words up; choose "merges"'):
        grow_tokenizer(bases["spm"], TEXT, ENGLISH, 40, tmp_path / "words", "words")
    assert not (tmp_path / "words").exists()
    assert any(
        token.left is not None
        for token in grow_tokenizer(bases["spm"], TEXT, ENGLISH, 40, tmp_path / "a", "auto").tokens
    )
    # A base with a token that its merges do not make, and that a text can be: looking it up would change that text.
    folder = tmp_path / "odd"
    load_tokenizer(bases["bytelevel"]).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["Ġzzz"] = len(content["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(" zzz").tokens != ["Ġzzz"]
    with pytest.raises(RecipeError, match="cannot look whole words up"):
        grow_tokenizer(folder, TEXT, ENGLISH, 40, tmp_path / "b", "words")
