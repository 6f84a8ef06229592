"""Which gradient norms are spikes, and when there are too many of them."""

import json

import pytest

from prealign_cpt.run.errors import NumericError
from prealign_cpt.train.step import LEAST, MOST, WINDOW, SpikeGuard


def _fed(norms: list[float]) -> SpikeGuard:
    guard = SpikeGuard()
    assert not any(guard.skips(norm, i) for i, norm in enumerate(norms))
    return guard


def test_ten_times_the_median_is_the_border() -> None:
    guard = _fed([1.0, 3.0] * (LEAST // 2))  # median 2
    assert not guard.skips(20.0, 1)
    assert guard.skips(30.1, 2), "the median of 17 norms is 3"
    assert not guard.skips(29.9, 3)


def test_nothing_is_judged_before_enough_is_known() -> None:
    guard = _fed([1.0] * (LEAST - 1))
    assert not guard.skips(1e6, 1)
    assert guard.skips(1e6, 2)


def test_a_skipped_norm_does_not_raise_the_median_and_old_ones_are_forgotten() -> None:
    guard = _fed([1.0] * LEAST)
    for _ in range(MOST - 1):
        assert guard.skips(11.0, 1)
    assert not guard.skips(10.0, 1)
    for _ in range(WINDOW):
        assert not guard.skips(9.0, 1)
    assert not guard.skips(89.0, 1), "the window holds 9.0 and nothing else"
    assert len(guard.state()["norms"]) == WINDOW


def test_a_step_in_between_starts_the_count_anew_and_the_fifth_in_a_row_stops() -> None:
    guard = _fed([1.0] * LEAST)
    for norm in [99.0] * (MOST - 1) + [1.0] + [99.0] * (MOST - 1):
        guard.skips(norm, 1)
    with pytest.raises(NumericError, match=r"step 77: gradient norm 99, .* median 1 .*5th step in a row.*train\.lr"):
        guard.skips(99.0, 77)


def test_the_state_passes_through_json_exactly() -> None:
    guard = _fed([1 / (i + 3) for i in range(LEAST)])
    assert guard.skips(1e3, 1)
    other = SpikeGuard(json.loads(json.dumps(guard.state())))
    assert other.state() == guard.state() and other.in_a_row == 1
    other.skips(0.1, 2)
    assert guard.in_a_row == 1, "the two share nothing"
