"""The random numbers: uniform, and independent between words, documents, epochs and seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.data.word_spans import document_keys, happens, mix, pick, shares, word_draws


def sequence(along: str, count: int) -> np.ndarray:
    """`count` draws that follow each other in one of the four counters."""
    if along == "word":
        return word_draws(document_keys(1, 0, 0, 1), np.array([count]))
    if along == "document":
        return word_draws(document_keys(1, 0, 0, count), np.ones(count, dtype=np.int64))
    one = np.ones(1, dtype=np.int64)
    made = [document_keys(n, 0, 0, 1) if along == "seed" else document_keys(1, n, 0, 1) for n in range(count)]
    return np.concatenate([word_draws(key, one) for key in made])


@pytest.mark.parametrize("along", ["word", "document", "epoch", "seed"])
def test_uniform_and_independent_along_each_counter(along: str):
    count = 20_000 if along in ("word", "document") else 4_000
    draws = sequence(along, count)
    assert len(np.unique(draws)) == count
    # Chi-squared of 64 cells: mean 63, standard deviation 11.2.
    for bits in (draws >> np.uint64(58), draws & np.uint64(63)):
        cells = np.bincount(bits.astype(np.int64), minlength=64)
        assert 63 - 5 * 11.2 < ((cells - count / 64) ** 2 / (count / 64)).sum() < 63 + 5 * 11.2
    # Each of the 64 bits: a coin, on its own and against the same bit of the draws 1 and 2 further on.
    bits = (draws[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    signs = 2.0 * bits.astype(np.float64) - 1
    limit = 5 / np.sqrt(count)
    assert np.abs(signs.mean(axis=0)).max() < limit
    for lag in (1, 2):
        assert np.abs((signs[lag:] * signs[:-lag]).mean(axis=0)).max() < limit
    floats = draws / 2.0**64
    assert abs(np.corrcoef(floats[1:], floats[:-1])[0, 1]) < limit


def test_each_input_bit_moves_half_of_the_output_bits():
    random = np.random.default_rng(0).integers(2**63, size=2000, dtype=np.uint64)
    for bit in range(64):
        moved = mix(random.copy()) ^ mix(random ^ np.uint64(1 << bit))
        assert abs(np.bitwise_count(moved).mean() - 32) < 1


def test_neighbours_share_nothing():
    """Seed, epoch and document do not stand for each other, and streams do not overlap."""
    keys = [document_keys(*n, 1)[0] for n in np.ndindex(12, 12, 12)]
    assert len(set(keys)) == 12**3
    draws = np.concatenate([word_draws(document_keys(s, e, 0, 20), np.full(20, 50)) for s, e in np.ndindex(5, 5)])
    assert len(np.unique(draws)) == len(draws)


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.5, 1.0])
def test_happens_with_its_probability(probability: float):
    draws = sequence("word", 100_000)
    share = happens(draws, probability).mean()
    assert abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / len(draws))


def test_picks_are_uniform_among_the_chosen():
    draws = sequence("word", 200_000)
    chosen = draws[happens(draws, 0.05)]
    for count in (1, 2, 3, 7):
        groups = np.arange(len(chosen)) % 3
        picks = pick(chosen, groups, shares([[0.1] * count] * 3)) - groups * count
        point = mix(chosen ^ np.uint64(0x9E3779B97F4A7C15)) >> 32
        assert picks.tolist() == (point * np.uint64(count) >> 32).tolist()
        cells = np.bincount(picks, minlength=count) / len(chosen)
        assert len(cells) == count and np.abs(cells - 1 / count).max() < 5 * np.sqrt(1 / count / len(chosen))


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=6), st.lists(st.floats(0.1, 1.0), min_size=1, max_size=3))
def test_picks_follow_the_weights(weights: list[float], before: list[float]):
    draws = sequence("word", 20_000)
    picks = pick(draws, np.full(len(draws), 1), shares([before, weights])) - len(before)
    expected = np.array(weights) / sum(weights)
    cells = np.bincount(picks, minlength=len(weights)) / len(draws)
    assert len(cells) == len(weights) and np.abs(cells - expected).max() < 6 * np.sqrt(0.25 / len(draws))
