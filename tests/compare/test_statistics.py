"""Bootstrap, curves and spreads against worked examples."""

import math

import numpy as np
import pytest

from prealign_cpt.compare.statistics import at, bytes_to_reach, mean_and_deviation, mean_over, paired_bootstrap

CURVE = [(0.0, 4.0), (100.0, 2.0), (300.0, 1.0)]


def _windows(seed: int, seeds: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = random.integers(900, 1024, 60).astype(float)
    return random.normal(1.5, 0.3, (seeds, 60)) * sizes, sizes


def test_identical_arms_differ_by_nothing():
    nats, sizes = _windows(0)
    found = paired_bootstrap(nats, nats, sizes)
    assert found.mean == found.low == found.high == 0


def test_arms_of_one_distribution_have_zero_in_the_interval_about_as_often_as_it_says():
    misses = 0
    for seed in range(60):
        (mine, sizes), (theirs, _) = _windows(seed), _windows(1000 + seed)
        found = paired_bootstrap(mine, theirs, sizes)
        assert found.low < found.mean < found.high
        misses += not found.low <= 0 <= found.high
    assert misses <= 10  # 3 are expected


def test_a_small_shift_in_the_same_windows_is_seen_though_the_windows_differ_far_more():
    nats, sizes = _windows(1)
    noise = np.random.default_rng(2).normal(0, 0.01, nats.shape) * sizes
    found = paired_bootstrap(nats + 0.02 * math.log(2) * sizes + noise, nats, sizes)
    assert found.mean == pytest.approx(0.02, abs=0.005)
    assert 0 < found.low < 0.02 < found.high < 0.03
    unpaired = paired_bootstrap(nats + 0.02 * math.log(2) * sizes, np.roll(nats, 1, axis=1), sizes)
    assert unpaired.low < 0 < unpaired.high, "pairing is what shows it"


def test_the_difference_is_over_bytes_not_over_windows():
    sizes = np.array([100.0, 900.0])
    found = paired_bootstrap(np.array([[100.0, 0.0]]) * math.log(2), np.zeros((1, 2)), sizes)
    assert found.mean == pytest.approx(0.1)


def test_the_bootstrap_is_reproducible():
    mine, sizes = _windows(3)
    theirs, _ = _windows(4)
    assert paired_bootstrap(mine, theirs, sizes) == paired_bootstrap(mine, theirs, sizes)
    assert paired_bootstrap(mine, theirs, sizes) != paired_bootstrap(mine, theirs, sizes, seed=1)


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
