"""The learner by itself, and against the tokenizers it writes."""

import json
from pathlib import Path

import pytest

from prealign_cpt.vocab.families import ByteLevel, SentencePiece, completions
from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer
from prealign_cpt.vocab.learn import Learner

from .conftest import ENGLISH, TARGET


def learner(words: dict[str, int], guard: list[str], **options: object) -> Learner:
    """A learner whose base tokens are single lowercase letters."""
    settings: dict = {"vocab": set("abcdefghijklmnopqrstuvwxyz"), "base_rank": {}, "allowed": lambda string: True}
    spelled = {tuple(word): count for word, count in words.items()}
    return Learner(spelled, [tuple(word) for word in guard], **(settings | options))


def test_most_frequent_first_and_ties_by_string() -> None:
    learned = learner({"hund": 5, "hut": 2, "ab": 3, "xy": 3}, [])
    learned.learn(4)
    assert [(piece.string, piece.left, piece.right, piece.count) for piece in learned.pieces.values()] == [
        ("hu", "h", "u", 7),
        ("hun", "hu", "n", 5),
        ("hund", "hun", "d", 5),
        ("ab", "a", "b", 3),
    ]


def test_guarded_pairs_never_merge() -> None:
    learned = learner({"hund": 5}, ["hut"])
    learned.learn(10)
    assert not any(string.startswith("hu") and len(string) == 2 for string in learned.pieces)
    assert learned.segment("hut") == ["h", "u", "t"]


def test_rare_pairs_stay_apart() -> None:
    learned = learner({"ab": 1, "cd": 2}, [])
    learned.learn(10)
    assert list(learned.pieces) == ["cd"]


def test_a_foreign_character_comes_before_what_is_built_from_it() -> None:
    learned = learner({"aüb": 3}, [])
    learned.learn(10)
    assert next(iter(learned.pieces)) == "ü"
    assert learned.segment("aüb") == ["aüb"]
    guarded = learner({"aüb": 3}, ["ü"])
    guarded.learn(10)
    assert not guarded.pieces


def test_removed_pieces_stay_away_and_words_fall_back() -> None:
    learned = learner({"aüb": 3, "hund": 5}, [])
    learned.learn(3)
    learned.remove(["hu", "hun", "hund"])
    assert set(learned.in_use()) == {"h", "u", "n", "d", "a", "ü", "b"}
    learned.learn(20)
    assert "hu" not in learned.pieces and learned.segment("aüb") == ["aüb"]


def test_counts_stay_true() -> None:
    """The running counts equal a count from scratch after merges of overlapping pairs and a removal."""
    learned = learner({"aaaa": 3, "abab": 4, "baüa": 2, "aab": 5}, [])
    learned.learn(4)
    learned.remove([next(iter(learned.pieces))])
    learned.learn(6)
    expected: dict[str, int] = {}
    for index, symbols in enumerate(learned._now):
        assert symbols == learned.segment(learned._base[index])
        for _, key in learned._pairs(symbols):
            expected[key] = expected.get(key, 0) + learned._weight[index]
        for symbol in set(symbols) & learned._locked:
            expected[symbol] = expected.get(symbol, 0) + learned._weight[index] * symbols.count(symbol)
    assert {key: count for key, count in learned._count.items() if count} == expected


def test_a_new_neighbour_may_complete_a_base_piece() -> None:
    """As in SentencePiece: a+bc is the base piece abc although ab is none."""
    learned = learner({"abcd": 1, "bcx": 4}, [], base_rank={"abc": 0})
    learned.learn(1)
    assert list(learned.pieces) == ["bc"]
    assert learned.segment("abcd") == ["abc", "d"]
    assert "abc" in learned.in_use()


@pytest.mark.parametrize("family", ["bytelevel", "llama3", "spm"])
@pytest.mark.parametrize("language", list(TARGET))
def test_segmentation_is_the_grown_tokenizers(
    family: str, language: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = load_tokenizer(bases[family])
    growth = grow_tokenizer(bases[family], TARGET[language], ENGLISH, 50, tmp_path / "out")
    new = load_tokenizer(tmp_path / "out")
    base.backend_tokenizer.pre_tokenizer = new.backend_tokenizer.pre_tokenizer  # changed for Hindi
    reader, grown = family_of(base), family_of(new)
    words = reader.words(TARGET[language])
    learned = Learner(
        words,
        reader.words(ENGLISH),
        vocab=reader.vocab,
        base_rank=reader.base_rank,
        allowed=reader.allowed,
        whole_words=reader.whole_words,
    )
    for token in growth.tokens:  # the pieces that were written, taken in their order
        string = new.convert_ids_to_tokens(token.id)
        learned._take(string, token.count)
    by_string = {"".join(word): word for word in grown.words(TARGET[language])}
    for index, word in enumerate(learned._base):
        assert tuple(learned._now[index]) == tuple(learned.segment(word)) == by_string["".join(word)]


def family_of(tokenizer: object) -> ByteLevel | SentencePiece:
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    model = json.loads(backend.to_str())["model"]
    return SentencePiece(backend, model["merges"]) if model["byte_fallback"] else ByteLevel(backend)


def test_parts_of_characters() -> None:
    assert "क" in set(completions("क".encode()[:2]))
    assert "क" in set(completions("क".encode()[1:]))
    assert not list(completions("क".encode()))
    assert not list(completions(b"a"))
    assert not list(completions("क".encode()[2:] + b"a"))
