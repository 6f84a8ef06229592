"""Intervals, curves and spreads against worked examples."""

import math

import numpy as np
import pytest

from prealign_cpt.evaluate.statistics import at, bytes_to_reach, mean_and_deviation, mean_over, paired_difference

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
    nats, sizes = _windows(1)
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


def test_means_over_a_curve():
    assert mean_over(CURVE, 0.0, 300.0) == pytest.approx((100 * 3.0 + 200 * 1.5) / 300)
    assert mean_over(CURVE, 50.0, 150.0) == pytest.approx((50 * 2.5 + 50 * 1.875) / 100)
    assert mean_over(CURVE, 200.0, 200.0) == 1.5
    assert at(CURVE, 50.0) == 3.0 and at(CURVE, 1000.0) == 1.0


def test_spread():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_deviation([1.0]) == (1.0, None)
