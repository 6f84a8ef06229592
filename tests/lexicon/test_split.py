"""Held-out entries share no word with the training entries."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.lexicon.stage import split
from prealign_cpt.run.errors import RecipeError

entries = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "A", "f!", "g"]), min_size=1, max_size=3).map(" ".join)
lexicons = st.lists(st.builds(Pair, entries, entries), unique=True, max_size=25)


def words(pairs: list[Pair], side: str) -> set[str]:
    return {word.strip("!") for pair in pairs for word in getattr(pair, side).casefold().split()}


@settings(deadline=None)
@given(pairs=lexicons, heldout=st.floats(0, 0.99), seed=st.integers(0, 5))
def test_no_word_of_a_held_out_pair_is_trained(pairs: list[Pair], heldout: float, seed: int) -> None:
    train, test = split(pairs, heldout, seed)
    assert not words(train, "source") & words(test, "source")
    assert not words(train, "target") & words(test, "target")
    assert all(" " not in pair.source + pair.target for pair in test)
    assert all(pair.source.casefold() != pair.target.casefold() for pair in test)
    assert not set(train) & set(test) and set(train) | set(test) <= set(pairs)
    assert len(pairs) - len(train) - len(test) <= len(test)
    assert len({pair.source.casefold() for pair in test}) <= heldout * len({pair.source.casefold() for pair in pairs})


@settings(deadline=None)
@given(pairs=lexicons, seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_line_order_does_not_matter(pairs: list[Pair], seed: int, order: random.Random) -> None:
    shuffled = order.sample(pairs, len(pairs))
    for one, other in zip(split(pairs, 0.4, seed), split(shuffled, 0.4, seed), strict=True):
        assert sorted(one) == sorted(other)
        assert other == [pair for pair in shuffled if pair in set(one)]


def test_the_asked_share_is_held_out_and_the_seed_chooses() -> None:
    pairs = [Pair(f"s{number}", f"t{number}{side}") for number in range(200) for side in "ab"]
    train, test = split(pairs, 0.1, 0)
    assert (len(train), len(test)) == (360, 40)
    assert set(split(pairs, 0.1, 1)[1]) != set(test)
    assert split(pairs, 0.0, 0) == (pairs, [])


def test_a_source_that_would_cost_too_many_pairs_is_never_held_out() -> None:
    hub = [Pair("thing", "Ding"), *(Pair(f"thing{number}", "Ding") for number in range(10))]
    train, test = split([*hub, Pair("moon", "Mond")], 0.9, 0)
    assert test == [Pair("moon", "Mond")] and train == hub


@pytest.mark.parametrize("heldout", [-0.1, 1.0, float("nan")])
def test_a_share_without_meaning_is_refused(heldout: float) -> None:
    with pytest.raises(RecipeError, match="heldout"):
        split([Pair("a", "b")], heldout, 0)
