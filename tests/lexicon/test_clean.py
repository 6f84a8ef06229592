"""Which pairs of a word list are kept, and why others are not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.lexicon.clean import clean
from prealign_cpt.lexicon.pairs import COLUMNS, Pair, Row, canonical, fault
from prealign_cpt.run.errors import DataError

GOOD = Row(99, "good", "gut")


def reasons(*sides: tuple[str, str], max_bad: float = 1.0) -> list[str]:
    rows = [Row(number, source, target) for number, (source, target) in enumerate(sides, start=1)]
    _, dropped = clean([*rows, GOOD], "x.tsv", max_bad)
    return [drop.reason for drop in dropped]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("", "leer", "empty side"),
        ("empty", " \u00a0\u3000", "empty side"),
        ("nul", "n\0l", "control character"),
        ("mark", "\u200f\u00ad", "empty side"),
        ("half", "\ud800", "lone surrogate"),
        ("#tag", "Marke", "begins like a comment"),
        ("1234", "1234", "no letters"),
        ("ten", "10 %", "no letters"),
        ("smile", "🙂", "no letters"),
        ("end", "</s>", "looks like a special token"),
        ("<|im_start|>", "Anfang", "looks like a special token"),
        ("long", "das ist ein viel zu langer Satz", "more than 5 words"),
        ("long", "a" * 101, "more than 100 characters"),
    ],
)
def test_each_unfit_row_is_dropped_for_its_reason(source: str, target: str, reason: str) -> None:
    assert reasons((source, target)) == [reason]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("less", "a < b"),
        ("COVID-19", "كوفيد 19"),
        ("want", "می\u200cخواهم"),
        ("taxi", "taxi"),
        ("in one two three four", "auf ein zwei drei vier"),
        ("Istanbul", "İstanbul"),
    ],
)
def test_unusual_but_fit_rows_are_kept(source: str, target: str) -> None:
    assert reasons((source, target)) == []


def test_text_is_composed_and_white_space_is_one_space() -> None:
    pairs, _ = clean([Row(1, " ice\u3000 cream", "la\u0308uft\u00a0 weg ")], "x.tsv")
    assert pairs == [Pair("ice cream", "läuft weg")]


def test_invisible_characters_go_and_joiners_stay_where_a_script_spells_with_them() -> None:
    rows = [Row(1, "\ufeffgo", "\u202age\u00adhen\u202c"), Row(2, "want\u200d", "می\u200cخواهم\u200f")]
    rows += [Row(3, "go", "ge\u200bhen"), Row(4, "letter", "ക്\u200d")]
    pairs, dropped = clean(rows, "x.tsv")
    assert pairs == [Pair("go", "gehen"), Pair("want", "می\u200cخواهم"), Pair("letter", "ക്\u200d")]
    assert [(drop.line, drop.reason) for drop in dropped] == [(3, "duplicate")]


def test_duplicates_are_counted_and_never_an_error() -> None:
    rows = [Row(1, "runs", "la\u0308uft"), Row(2, "runs", "läuft"), Row(3, "runs ", "läuft"), Row(4, "Runs", "läuft")]
    pairs, dropped = clean(rows, "x.tsv")
    assert pairs == [Pair("runs", "läuft"), Pair("Runs", "läuft")]
    assert [(drop.line, drop.reason) for drop in dropped] == [(2, "duplicate"), (3, "duplicate")]


def test_translations_keep_their_order_and_the_first_ones_stay() -> None:
    rows = [Row(number, "go", target) for number, target in enumerate(["z", "a", "m", "z", "b"], start=1)]
    pairs, dropped = clean(rows, "x.tsv", max_per_source=2)
    assert [pair.target for pair in pairs] == ["z", "a"]
    assert [drop.reason for drop in dropped] == [
        "beyond the first translations",
        "duplicate",
        *["beyond the first translations"],
    ]


def test_malformed_lines_are_an_error_that_lists_the_first_five() -> None:
    rows = [Row(number, "a", "") for number in range(1, 8)]
    with pytest.raises(
        DataError, match=r"7 of 8 lines are malformed \(x\.tsv:1: empty side; .*x\.tsv:5: [^;]*; \.\.\.\)"
    ):
        clean([*rows, GOOD], "x.tsv")


def test_the_share_of_malformed_lines_is_what_counts() -> None:
    rows = [Row(1, "a b c", "", COLUMNS), *(Row(number, f"w{number}", "wort") for number in range(2, 11))]
    assert len(clean(rows, "x.tsv", max_bad=0.1)[1]) == 1
    with pytest.raises(DataError, match=f"x.tsv:1: {COLUMNS}"):
        clean(rows, "x.tsv", max_bad=0.09)


@pytest.mark.parametrize("rows", [[], [Row(1, "12", "12")]])
def test_a_file_without_any_pair_is_an_error(rows: list[Row]) -> None:
    with pytest.raises(DataError, match="no pair is left"):
        clean(rows, "x.tsv")


GERMAN = {"house": "Haus", "water": "Wasser", "go": "gehen", "war": "Krieg", "the": "die", "at": "an", "was": "war"}
RUSSIAN = {"axolotl": "аксолотль", "quasar": "квазар", "basalt": "базальт"}


def test_a_probability_stays_with_its_pair() -> None:
    rows = [Row(1, "go", "gehen", "", 0.5), Row(2, "go", "gehen", "", 0.25), Row(3, "run", "laufen")]
    assert [pair.probability for pair in clean(rows, "x.tsv")[0]] == [0.5, None]


@pytest.mark.parametrize("words", [GERMAN, RUSSIAN])
def test_swapped_columns_are_noticed_by_words_and_by_script(words: dict[str, str]) -> None:
    right = [Row(number, *pair) for number, pair in enumerate(words.items(), start=1)]
    assert len(clean(right, "x.tsv")[0]) == len(words)
    with pytest.raises(DataError, match=r"swapped.*--swap"):
        clean([Row(row.line, row.target, row.source) for row in right], "x.tsv")


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12))))
def test_every_row_is_kept_or_dropped_and_what_is_kept_is_canonical(sides: list[tuple[str, str]]) -> None:
    rows = [Row(number, source, target) for number, (source, target) in enumerate(sides, start=1)]
    try:
        pairs, dropped = clean(rows, "x.tsv", max_bad=1.0)
    except DataError as error:
        assert "no pair is left" in str(error) or "swapped" in str(error)
        return
    assert len(pairs) + len(dropped) == len(rows)
    assert len(set(pairs)) == len(pairs)
    for pair in pairs:
        for side in (pair.source, pair.target):
            assert side and canonical(side) == side and fault(side) is None
