"""Pairs written and read again are the same pairs."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.lexicon.pairs import Pair, canonical, fault, pair_weights, read_pairs, write_pairs
from prealign_cpt.run.errors import DataError, StorageError

sides = st.text(min_size=1, max_size=20).filter(lambda text: not fault(text)).map(canonical).filter(bool)
chances = st.none() | st.floats(0, 1, exclude_min=True)
lexicons = st.lists(st.builds(Pair, sides.filter(lambda side: not side.startswith("#")), sides, chances))


@settings(deadline=None, max_examples=40)
@given(pairs=lexicons, header=st.text(st.characters(exclude_categories=["Cs"])))
def test_reading_is_the_inverse_of_writing(pairs: list[Pair], header: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lexicon.tsv"
        write_pairs(path, pairs, header)
        if path.stat().st_size:
            assert read_pairs(path) == pairs
            assert [pair.probability for pair in read_pairs(path)] == [pair.probability for pair in pairs]
        else:
            assert not pairs


def test_the_file_is_lines_of_two_columns_below_comments(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.tsv"
    write_pairs(path, [Pair("go", "gehen", 0.75), Pair("go", "zu Fuß gehen")], "one\ntwo")
    assert path.read_bytes() == "# one\n# two\ngo\tgehen\t0.75\ngo\tzu Fuß gehen\n".encode()


@pytest.mark.parametrize(
    "pair",
    [
        Pair("", "x"),
        Pair("x", "a\tb"),
        Pair("x", "a\nb"),
        Pair("# x", "y"),
        Pair("x", "a  b"),
        Pair("x", "a\u0308"),
        Pair("x", "\ud800"),
        Pair("x", "a\u200b"),
        Pair("x", "y", 0.0),
        Pair("x", "y", float("nan")),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"not in canonical form|begins like a comment|no probability"):
        write_pairs(tmp_path / "lexicon.tsv", [pair], "")
    assert not list(tmp_path.iterdir())


def test_writing_into_a_missing_folder_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/lexicon\.tsv"):
        write_pairs(tmp_path / "nowhere" / "lexicon.tsv", [Pair("a", "b")], "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\0b", "control character"),
        ("a\x0bb", "control character"),
        ("a\x85b", "control character"),
        ("a\u2028b", "control character"),
        ("\ud800", "lone surrogate"),
        ("می\u200cخواهم", None),
        ("क\u094d\u200dष", None),
        ("a b\u00a0c", None),
        ("a\u202e\u2066\u200b\ufeff\u00adb", None),
        ("🙂", None),
    ],
)
def test_controls_are_refused_and_what_can_be_left_out_is_not(text: str, reason: str | None) -> None:
    assert fault(text) == reason


@pytest.mark.parametrize(
    "line", ["a\tb\tc", "a\tb\t0", "a\tb\tnan", "a\tb\t0.5\t0.5", "a", "a\t", "a\t b", "a\tla\u0308uft", "a\tb\u200b"]
)
def test_a_canonical_file_is_read_as_it_stands_or_not_at_all(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lexicon.tsv"
    path.write_text(f"x\ty\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"lexicon\.tsv:2"):
        read_pairs(path)


@settings(deadline=None)
@given(st.text(st.sampled_from("aйمക\u094d \u00ad\u200b\u200c\u200d\u180e\u200e\ufeff"), max_size=8))
def test_canonical_text_is_its_own_canonical_form(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


def test_weights_are_probabilities_or_equal_shares() -> None:
    pairs = [Pair("go", "gehen", 0.5), Pair("go", "laufen"), Pair("go", "laufen"), Pair("run", "laufen")]
    assert list(pair_weights(pairs).values()) == [0.5, 0.5, 1.0]
