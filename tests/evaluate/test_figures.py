"""Figures: worked examples of the intervals, and JSON that holds nothing but finite numbers."""

import json
import math

import numpy as np
import pytest

from prealign_cpt.evaluate.figures import Absent, Figure, from_json, to_json
from prealign_cpt.evaluate.statistics import difference, mean_of, share
from prealign_cpt.run.errors import DataError, NumericError


def test_the_mean_of_ratios_by_weight_is_the_ratio_of_sums():
    nats, sizes = np.array([3.0, 10.0, 2.0]), np.array([1.0, 4.0, 1.0])
    figure = mean_of(nats / sizes, sizes)
    assert figure.value == pytest.approx(15 / 6) and figure.low < figure.value < figure.high and figure.n == 3


def test_one_item_has_no_interval():
    assert mean_of(np.array([0.5])) == Figure(0.5, n=1)


def test_wilson_by_hand():
    """The textbook's 8 of 10; and no hit at all is no proof of impossibility."""
    figure = share(np.array([True] * 8 + [False] * 2))
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    none = share(np.zeros(10))
    assert (none.value, none.low, none.high) == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)


def test_pairing_takes_out_what_is_common():
    hard = np.random.default_rng(2).normal(size=50)
    one, other = mean_of(hard + 0.1), mean_of(hard)
    gap = difference(one, other)
    assert one.low < other.high, "the intervals overlap"
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    assert isinstance(difference(one, mean_of(hard[:49])), Absent)
    assert isinstance(difference(one, Figure(0.3)), Absent)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_is_finite(bad: float):
    with pytest.raises(NumericError, match="not finite"):
        Figure(bad)
    with pytest.raises(NumericError, match="not finite"):
        mean_of(np.array([1.0, bad]))


def test_json_there_and_back():
    result = {"a": Figure(1.5, 1.0, 2.0, 7, "why"), "b": Figure(2.0), "c": Absent("no local data")}
    content = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert from_json(content, "x.json") == result
    assert content["b"] == {"value": 2.0}


@pytest.mark.parametrize(
    "content",
    [[], {"a": {}}, {"a": {"value": "1"}}, {"a": {"value": True}}, {"a": {"value": 1.0, "q": 1}}, {"a": {"absent": 3}},
     {"a": {"value": math.nan}}],
)  # fmt: skip
def test_other_json_is_refused(content: object):
    with pytest.raises(DataError, match=r"x\.json"):
        from_json(content, "x.json")
