"""The suite: what is written, what is kept, what is done again, and what one failing measure does to the others."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from prealign_cpt.evaluate import measures as table_of_measures
from prealign_cpt.evaluate import suite
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure, Outcome, Result
from prealign_cpt.evaluate.measures import Measure, chosen
from prealign_cpt.evaluate.statistics import mean_of
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import run_suite
from prealign_cpt.run import signals
from prealign_cpt.run.errors import NumericError, RecipeError

BOTH = ("first", "second")


class Counted(Measure):
    """A measure of the tests' own, which counts its calls."""

    calls: list[str] = []  # noqa: RUF012
    results: dict[str, Callable[[], Result]] = {}  # noqa: RUF012

    def __call__(self, subject: Subject, data: EvaluationData) -> Result:
        self.calls.append(self.function)
        return self.results[self.function]()


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Result]]:
    Counted.calls = []
    Counted.results = {
        "first": lambda: {"a": mean_of(np.array([1.0, 2.0, 3.0])), "b": Absent("not today")},
        "second": lambda: {"c": Figure(2.0)},
    }
    both = {"first": Counted("first", ("parallel",)), "second": Counted("second", base=True)}
    for module in (suite, table_of_measures):
        monkeypatch.setattr(module, "MEASURES", both)
    return Counted.results


@pytest.fixture
def subject(base_folder: Path) -> Subject:
    return Subject(base_folder, device="cpu")


def statuses(found: dict[str, Outcome]) -> list[str]:
    return [outcome.status for outcome in found.values()]


def test_results_lie_there_and_are_kept(tmp_path: Path, subject: Subject, measures: object):
    found = run_suite(subject, EvaluationData(), tmp_path, BOTH)
    content = json.loads((tmp_path / "first.json").read_text())
    assert content["figures"]["b"] == {"absent": "not today"}
    assert content["made_from"]["model"] == subject.model_digest
    assert {"torch", "prealign_cpt"} <= set(content["made_from"]["versions"])
    again = run_suite(subject, EvaluationData(), tmp_path, BOTH)
    assert Counted.calls == ["first", "second"]
    assert all(outcome.kept for outcome in again.values())
    figure, before = again["first"].result["a"], found["first"].result["a"]
    assert figure == before
    assert np.array_equal(figure.items.values, [1.0, 2.0, 3.0]) and np.array_equal(figure.items.weights, [1, 1, 1])


def test_only_what_depends_on_a_change_is_done_again(tmp_path: Path, subject: Subject, measures: object):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("a\tb\n")
    run_suite(subject, EvaluationData(parallel=pairs), tmp_path / "out", BOTH)
    pairs.write_text("a\tc\n")
    run_suite(subject, EvaluationData(parallel=pairs), tmp_path / "out", BOTH)
    assert Counted.calls == ["first", "second", "first"], "the second does not read it"
    run_suite(subject, EvaluationData(parallel=pairs, max_items=3), tmp_path / "out", BOTH)
    assert Counted.calls[3:] == ["first", "second"]
    with_base = Subject(subject.folder, device="cpu", base=subject.folder)
    run_suite(with_base, EvaluationData(parallel=pairs, max_items=3), tmp_path / "out", BOTH)
    assert Counted.calls[5:] == ["second"], "only it measures the base"


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"{}" + data])
def test_a_damaged_file_is_done_again(tmp_path: Path, subject: Subject, measures: object, damage: Callable):
    run_suite(subject, EvaluationData(), tmp_path, BOTH)
    path = tmp_path / "first.json"
    path.write_bytes(damage(path.read_bytes()))
    run_suite(subject, EvaluationData(), tmp_path, BOTH)
    assert Counted.calls == ["first", "second", "first"]
    run_suite(subject, EvaluationData(), tmp_path, BOTH)
    assert len(Counted.calls) == 3


def test_one_failure_does_not_stop_the_others(tmp_path: Path, subject: Subject, measures: dict):
    def fails() -> Result:
        raise NumericError("the logits are not finite")

    whole, measures["first"] = measures["first"], fails
    found = run_suite(subject, EvaluationData(), tmp_path, BOTH)
    assert statuses(found) == ["failed", "done"]
    assert found["first"].result == {"first": Absent("the logits are not finite")}
    measures["first"] = whole
    assert statuses(run_suite(subject, EvaluationData(), tmp_path, BOTH)) == ["done", "done"], (
        "what failed is tried again"
    )


def test_missing_data_are_no_failure(tmp_path: Path, subject: Subject, measures: dict):
    def lacks() -> Result:
        raise NoDataError("no local data: no parallel text")

    measures["first"] = lacks
    measures["second"] = lambda: {"c": Absent("nothing"), "d": Absent("nothing")}
    assert statuses(run_suite(subject, EvaluationData(), tmp_path, BOTH)) == ["absent", "absent"]


def test_a_stop_stops(tmp_path: Path, subject: Subject, measures: dict):
    def stopped() -> Result:
        raise signals.StoppedError("stopped by SIGTERM")

    measures["second"] = stopped
    with pytest.raises(signals.StoppedError):
        run_suite(subject, EvaluationData(), tmp_path, BOTH)
    assert (tmp_path / "first.json").exists() and not (tmp_path / "second.json").exists()


def test_a_fault_of_the_program_is_not_swallowed(tmp_path: Path, subject: Subject, measures: dict):
    measures["first"] = lambda: {"a": 1 / 0}
    with pytest.raises(ZeroDivisionError):
        run_suite(subject, EvaluationData(), tmp_path, BOTH)


def test_only_and_unknown_names(tmp_path: Path, subject: Subject, measures: object):
    assert list(run_suite(subject, EvaluationData(), tmp_path, ["second"])) == ["second"]
    assert chosen("full", ["second"]) == ["second"]
    with pytest.raises(RecipeError, match="third: no such measure; there are first, second"):
        chosen("full", ["third"])


def test_no_library_may_fetch_anything(
    tmp_path: Path, subject: Subject, measures: dict, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    seen = []

    def looks() -> Result:
        seen.append((os.environ["HF_HUB_OFFLINE"], huggingface_hub.constants.HF_HUB_OFFLINE))
        return {}

    measures["first"] = looks
    run_suite(subject, EvaluationData(), tmp_path, BOTH)
    assert seen == [("1", True)]
    assert "HF_HUB_OFFLINE" not in os.environ and huggingface_hub.constants.HF_HUB_OFFLINE is False
