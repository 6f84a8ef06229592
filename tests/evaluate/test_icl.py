"""The patterns themselves, and three machines that go on with them: one that knows, one that guesses, one that copies
what stood behind the same token before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.icl import SHOTS, make_rows, measure
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import encode_words

SYMBOLS, ARROW, NEWLINE = list(range(100, 116)), [1, 2], [3]


@pytest.mark.parametrize("task", ["copy", "sort", "map"])
def test_rows_are_what_they_say(task: str):
    for row in make_rows(task, SYMBOLS, ARROW, NEWLINE, 20, seed=0):
        seen: dict[int, int] = {}
        begin = 0
        assert len(row.answers) == SHOTS[-1] + 1
        for example, places in enumerate(row.answers):
            shown = row.ids[begin : places[0] - len(ARROW)]
            answer = [row.ids[place] for place in places]
            assert row.ids[places[0] - len(ARROW) : places[0]] == ARROW
            if task == "map":
                assert (shown[0] in seen) == (example >= 4), "every key is shown once, then again"
                assert seen.setdefault(shown[0], answer[0]) == answer[0]
            else:
                assert len(set(shown)) == 3
                assert answer == (sorted(shown) if task == "sort" else shown)
            begin = places[-1] + 1 + len(NEWLINE)
        assert begin == len(row.ids)


def machine(subject: Subject, continues: Any) -> Any:
    """A subject whose model's hidden state is the one-hot of the token that `continues(ids, place)` names."""
    size = len(subject.tokenizer)

    def run(input_ids: Tensor, use_cache: bool) -> Any:
        named = [[continues(row, i) for i in range(len(row))] for row in input_ids.tolist()]
        return SimpleNamespace(last_hidden_state=torch.eye(size)[torch.tensor(named)])

    head = SimpleNamespace(weight=torch.eye(size))
    model = SimpleNamespace(base_model=run, get_output_embeddings=lambda: head)
    made = SimpleNamespace(
        tokenizer=subject.tokenizer,
        start_token_id=0,
        device="cpu",
        model=model,
        folder=subject.folder,
    )
    made.with_base = lambda: {"": made}
    return made


def knows(ids: list[int], place: int) -> int:
    return ids[min(place + 1, len(ids) - 1)]


def guesses(ids: list[int], place: int) -> int:
    return ids[1]


def induces(span: int) -> Any:
    """What followed the last time these `span` tokens stood here."""

    def continues(ids: list[int], place: int) -> int:
        for earlier in range(place - 1, span - 2, -1):
            if ids[earlier - span + 1 : earlier + 1] == ids[place - span + 1 : place + 1]:
                return ids[earlier + 1]
        return 0

    return continues


@pytest.mark.parametrize(
    ("continues", "low", "high"), [(knows, (1, 1, 1), (1, 1, 1)), (guesses, (0, 0, 0), (0.1, 0.1, 0.5))]
)
def test_machines(base_folder: Path, continues: Any, low: tuple[float, ...], high: tuple[float, ...]):
    result = measure(machine(Subject(base_folder, device="cpu"), continues), EvaluationData())
    for task, least, most in zip(("copy", "sort", "map"), low, high, strict=True):
        for shots in (4, 8, 16):
            assert least <= result[f"{task}/{shots}"].value <= most
    assert "map/2" not in result, "it cannot be solved before every key was shown"
    assert result["accuracy"].n == 32


def test_a_machine_that_induces_maps_but_does_not_sort(base_folder: Path):
    subject = Subject(base_folder, device="cpu")
    arrow = encode_words(subject.tokenizer, ["->"])[0]
    result = measure(machine(subject, induces(1 + len(arrow))), EvaluationData())
    assert result["map/8"].value == 1.0
    assert result["sort/16"].value < 0.1


def test_the_same_model_is_not_changed(base_folder: Path):
    result = measure(Subject(base_folder, device="cpu", base=base_folder), EvaluationData(max_items=4))
    assert result["accuracy"].n == 4
    assert result["change/accuracy"].value == 0.0
    assert result["base/accuracy"] == result["accuracy"]


def test_too_few_symbols(base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prealign_cpt.evaluate.icl.LEAST", 27)
    reason = measure(Subject(base_folder, device="cpu"), EvaluationData())["accuracy"]
    assert isinstance(reason, Absent) and "27 are needed" in reason.reason


def test_accuracy_is_over_four_to_sixteen_shots_and_its_items_are_rows(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Right from 4 shots on for copy, from 10 on for map, never for sort: the tasks lie apart, the rows do not."""
    begins = {"copy": 4, "sort": 99, "map": 10}
    tasks = iter(("copy", "sort", "map"))

    def given(subject: Any, rows: list[Any], *_: Any) -> np.ndarray:
        return np.tile(np.arange(SHOTS[-1] + 1) >= begins[next(tasks)], (len(rows), 1))

    monkeypatch.setattr("prealign_cpt.evaluate.icl._right", given)
    found = measure(Subject(base_folder, device="cpu"), EvaluationData())["accuracy"]
    assert found.value == pytest.approx((13 + 0 + 7) / 39) and found.n == 32
    assert found.high - found.low < 1e-9, "how far the tasks lie apart is no uncertainty"
    assert found.note.startswith("4 to 16 shots")
