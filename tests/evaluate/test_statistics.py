"""Intervals, curves and spreads against worked examples."""

import math

import numpy as np
import pytest

from prealign_cpt.evaluate.figures import Figure
from prealign_cpt.evaluate.statistics import (
    bytes_to_reach,
    difference,
    mean_and_deviation,
    mean_of,
    paired_difference,
    share,
)

CURVE = [(0.0, 4.0), (100.0, 2.0), (300.0, 1.0)]


def _windows(seed: int, seeds: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = random.integers(900, 1024, 60).astype(float)
    return random.normal(1.5, 0.3, (seeds, 60)) * sizes, sizes


def test_identical_arms_differ_by_nothing():
    nats, sizes = _windows(0)
    found = paired_difference(nats, nats, sizes)
    assert found.mean == found.low == found.high == 0


@pytest.mark.parametrize("windows", [6, 10, 40])
def test_the_interval_holds_the_truth_as_often_as_it_says_on_few_windows_too(windows: int):
    """A percentile bootstrap of the same windows holds it in 0.86, 0.90 and 0.94 of the draws."""
    random = np.random.default_rng(windows)
    held = 0
    for _ in range(2_000):
        sizes = random.integers(700, 1024, windows).astype(float)
        gap = random.normal(0.05, 0.04, windows) * sizes * math.log(2)
        found = paired_difference(gap[None], np.zeros((1, windows)), sizes)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.05 <= found.high
    assert 0.935 < held / 2_000 < 0.965


def test_a_small_shift_in_the_same_windows_is_seen_though_the_windows_differ_far_more():
    nats, sizes = _windows(1, seeds=1)
    noise = np.random.default_rng(2).normal(0, 0.01, nats.shape) * sizes
    found = paired_difference(nats + 0.02 * math.log(2) * sizes + noise, nats, sizes)
    assert found.mean == pytest.approx(0.02, abs=0.005)
    assert 0 < found.low < 0.02 < found.high < 0.03
    unpaired = paired_difference(nats + 0.02 * math.log(2) * sizes, np.roll(nats, 1, axis=1), sizes)
    assert unpaired.low < 0 < unpaired.high, "pairing is what shows it"


def test_the_difference_is_over_bytes_not_over_windows():
    sizes = np.array([100.0, 900.0])
    found = paired_difference(np.array([[100.0, 0.0]]) * math.log(2), np.zeros((1, 2)), sizes)
    assert found.mean == pytest.approx(0.1)


def test_the_interval_against_a_worked_example():
    """Equal sizes: the textbook's paired t interval of the windows' own differences (0.1, 0.2, 0.3 bits per byte)."""
    sizes = np.full(3, 100.0)
    found = paired_difference(np.array([[10.0, 20.0, 30.0]]) * math.log(2), np.zeros((1, 3)), sizes)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert not found.clear and str(found) == "+0.200 [-0.048, +0.448]"


def test_one_window_has_no_interval_and_tells_nothing_apart():
    found = paired_difference(np.array([[100.0]]), np.zeros((1, 1)), np.array([100.0]))
    assert found.low is None and found.high is None and not found.clear


def test_bytes_to_reach():
    assert bytes_to_reach(CURVE, 3.0) == 50.0
    assert bytes_to_reach(CURVE, 1.5) == 200.0
    assert bytes_to_reach(CURVE, 1.0) == 300.0
    assert bytes_to_reach(CURVE, 4.5) == 0.0
    assert bytes_to_reach(CURVE, 0.9) is None
    assert bytes_to_reach([(0, 2.0), (10, 3.0), (20, 1.0)], 2.0) == 0, "the first time counts"


def test_spread():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_deviation([1.0]) == (1.0, None)


def _held(figures: list[tuple[float, float]], truth: float) -> float:
    return sum(low <= truth <= high for low, high in figures) / len(figures)


@pytest.mark.parametrize(("seeds", "of_seed"), [(2, 0.1), (3, 0.1), (3, 0.0), (5, 0.02)])
def test_the_interval_holds_for_other_seeds_and_other_windows_together(seeds: int, of_seed: float):
    """With the windows' variance alone it holds the truth in a third of the draws where seeds differ as windows do."""
    random = np.random.default_rng(seeds)
    sizes = np.full(10, 1000.0)
    found = []
    for _ in range(1_000):
        gap_SW = 0.2 + random.normal(0, 0.1, 10) + random.normal(0, of_seed, (seeds, 1))
        gap_SW = gap_SW + random.normal(0, 0.03, (seeds, 10))
        interval = paired_difference(gap_SW * sizes * math.log(2), np.zeros((seeds, 10)), sizes)
        found.append((interval.low, interval.high))
    assert _held(found, 0.2) >= 0.93


def test_a_mean_of_few_windows_holds_the_truth():
    random = np.random.default_rng(0)
    means, gaps = [], []
    for _ in range(1_500):
        sizes, hard = random.integers(500, 1024, 10).astype(float), random.normal(1.5, 0.3, 10)
        own, other = (mean_of(hard + random.normal(0, 0.02, 10) + shift, sizes) for shift in (0.05, 0.0))
        gap = difference(own, other)
        means.append((own.low, own.high))
        gaps.append((gap.low, gap.high))
    assert 0.93 <= _held(means, 1.55) <= 0.97 and 0.93 <= _held(gaps, 0.05) <= 0.97, "95 %, not 90 and not 99"


def test_windows_of_one_document_count_as_one():
    """Documents differ, their windows do not: taken for independent they would be sure of themselves."""
    random = np.random.default_rng(1)
    documents = np.repeat(np.arange(8), 10)
    grouped, loose = [], []
    for _ in range(500):
        values = random.normal(1.5, 0.3, 8)[documents] + random.normal(0, 0.02, 80)
        for found, groups in ((grouped, documents), (loose, None)):
            figure = mean_of(values, groups_N=groups)
            found.append((figure.low, figure.high))
    assert _held(grouped, 1.5) >= 0.93 and _held(loose, 1.5) < 0.6


def test_four_items_one_way_prove_nothing():
    """A published star: 3 against 7 of 24, exact p = 0.125."""
    gap = difference(share(np.arange(24) < 3), share(np.arange(24) < 7))
    assert isinstance(gap, Figure) and gap.p == pytest.approx(0.125) and not gap.clear
    assert gap.value == pytest.approx(-4 / 24) and gap.low < gap.value < gap.high
    five = difference(share(np.arange(24) < 2), share(np.arange(24) < 7))
    assert five.p == pytest.approx(1 / 16) and not five.clear
    six = difference(share(np.arange(24) < 1), share(np.arange(24) < 7))
    assert six.p == pytest.approx(1 / 32) and six.clear


def test_shares_that_agree_on_every_item_may_still_differ_elsewhere():
    for hits in (np.ones(24), np.zeros(24), np.arange(24) < 9):
        gap = difference(share(hits), share(hits))
        assert (gap.value, gap.p) == (0.0, 1.0) and gap.low < 0 < gap.high and not gap.clear


@pytest.mark.parametrize(
    ("size", "first", "second", "shared"), [(24, 0.3, 0.3, 0.0), (24, 0.9, 0.7, 0.3), (60, 0.5, 0.4, 0.6)]
)
def test_the_interval_of_paired_shares_holds_the_truth(size: int, first: float, second: float, shared: float):
    random = np.random.default_rng(size)
    found = []
    for _ in range(400):
        luck = random.random((2, size))
        luck[1] = np.where(random.random(size) < shared, luck[0], luck[1])
        gap = difference(share(luck[0] < first), share(luck[1] < second))
        found.append((gap.low, gap.high))
    assert 0.93 <= _held(found, first - second) <= 0.985
