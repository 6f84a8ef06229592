"""A word list out of parallel text: the counting, the spelling, and what is said of text that cannot serve."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.lexicon import induce as module
from prealign_cpt.lexicon.induce import Links, induce, probabilities
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.lexicon.truecase import usual_spellings
from prealign_cpt.run.errors import DataError, MissingInputError, StorageError

GERMAN = {"the": "die", "dog": "Hund", "cat": "Katze", "sees": "sieht", "big": "große", "house": "Haus", "and": "und"}


@pytest.fixture
def word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of the aligner: word n translates word n."""

    def align(english: Sequence[list[str]], target: Sequence[list[str]]) -> Iterator[Links]:
        for one, other in zip(english, target, strict=True):
            yield [(n, n) for n in range(min(len(one), len(other)))]

    monkeypatch.setattr(module, "align", align)
    monkeypatch.setattr(module, "require_aligner", lambda: None)


def files(folder: Path, *pairs: tuple[str, str]) -> tuple[Path, Path]:
    paths = folder / "x.en", folder / "x.de"
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("\n".join(side) + "\n", encoding="utf-8")
    return paths


def test_a_probability_is_the_geometric_mean_of_both_directions_less_one_link():
    english, target = [["a", "b"], ["a"], ["a"], ["a"]], [["x", "y"], ["x"], ["x"], ["z"]]
    links = [[(0, 0), (1, 1)], [(0, 0)], [(0, 0)], [(0, 0)]]
    assert probabilities(english, target, links) == {("a", "x"): pytest.approx((2 / 4 * 2 / 3) ** 0.5)}


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1), max_size=6))
def test_probabilities_are_above_0_and_below_1(sentences: list[list[tuple[str, str]]]):
    english, target = ([[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1))
    links = [[(n, n) for n in range(len(sentence))] for sentence in sentences]
    assert all(0 < chance < 1 for chance in probabilities(english, target, links).values())


def test_words_are_spelled_as_inside_sentences():
    text = ["Das Haus. Und das Haus", "»Gott« sah das Haus und das ΟΔΟΣ", "Sonst", "Die Sonne: Gott"]
    found = usual_spellings(text)
    assert (found["das"], found["haus"], found["und"], found["sonst"]) == ("das", "Haus", "und", "sonst")


@pytest.mark.usefixtures("word_by_word")
def test_the_list_has_probabilities_the_most_probable_first(tmp_path: Path):
    lines = [("The dog sees", "der Hund sieht")] * 6 + [("The dog", "der Köter")] * 3 + [("", "leer"), ("one", "1")]
    counts = induce(*files(tmp_path, *lines), tmp_path / "out.tsv")
    found = read_pairs(tmp_path / "out.tsv")
    assert found == [Pair("dog", "Hund"), Pair("dog", "Köter"), Pair("sees", "sieht"), Pair("the", "der")]
    assert [pair.probability for pair in found[:2]] == [0.6804, 0.3849]
    assert (counts["sentences"], counts["left_out"], counts["words"], counts["pairs"]) == (9, 1, [24, 24], 4)
    induce(*files(tmp_path, *lines), tmp_path / "few.tsv", least=0.5)
    assert Pair("dog", "Köter") not in read_pairs(tmp_path / "few.tsv")


@pytest.mark.usefixtures("word_by_word")
def test_text_that_cannot_serve_is_named_and_nothing_is_written(tmp_path: Path):
    out = tmp_path / "out.tsv"
    english, target = files(tmp_path, ("a dog", "ein Hund"), ("a cat", "die Katze"))
    with pytest.raises(DataError, match=r"no pair of words reaches a probability of 0\.1 in 2 sentences"):
        induce(english, target, out)
    english.write_text("one line\n")
    with pytest.raises(DataError, match=r"x\.en: ends before line 2 of .*x\.de; line n"):
        induce(english, target, out)
    numbers = files(tmp_path, ("1", "1"), ("word " * 201, "Wort"))
    with pytest.raises(DataError, match="no pair of sentences of 1 to 200 words"):
        induce(*numbers, out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(StorageError, match="never overwritten"):
        induce(english, target, out)


def test_a_missing_aligner_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match=r'pip install "prealign-cpt\[induce\]".*C compiler'):
        induce(*files(tmp_path, ("a", "b")), tmp_path / "out.tsv")


def test_the_aligner_finds_words_in_another_order(tmp_path: Path):
    pytest.importorskip("eflomal")
    draw = random.Random(0)
    sentences = [[draw.choice(list(GERMAN)) for _ in range(draw.randint(3, 6))] for _ in range(400)]
    lines = [(" ".join(words), " ".join(GERMAN[word] for word in reversed(words))) for words in sentences]
    induce(*files(tmp_path, *lines), tmp_path / "out.tsv", least=0.3)
    found = {(pair.source, pair.target.lower()) for pair in read_pairs(tmp_path / "out.tsv")}
    assert found == {(source, target.lower()) for source, target in GERMAN.items()}
