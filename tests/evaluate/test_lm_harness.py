"""The harness on a small server with a real model: its figures are those computed here by hand."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from prealign_cpt.evaluate import lm_harness
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure
from prealign_cpt.evaluate.lm_harness import measure
from prealign_cpt.evaluate.served import Served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import client
from tests.conftest import ENGLISH, START, TARGET
from tests.evaluate.local_tasks import bits_per_byte, hits, write_tasks
from tests.evaluate.served import ServedModel

TEXTS = [ENGLISH[0], TARGET[1], f"Before {START} after."]

WRITE = """
task: own_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match}}]
"""
ELSEWHERE = """
task: own_elsewhere
dataset_path: somebody/not-in-the-cache
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: label
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationData:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(client, "PAUSE", 0.01)
    folder = write_tasks(tmp_path / "tasks", TEXTS, write=WRITE, elsewhere=ELSEWHERE)
    tasks = ("own_bpb", "own_choice", "own_write", "own_elsewhere")
    return EvaluationData(lm_eval_tasks=tasks, lm_eval_path=folder)


@pytest.mark.slow
def test_figures_are_those_of_a_plain_forward_pass(base_folder: Path, data: EvaluationData):
    with ServedModel(base_folder) as server:
        subject = Subject(base_folder, url=server.base_url)
        found = measure(subject, data)
        sent = [ids for path, body in server.requests if path == "/v1/completions" for ids in body["prompt"]]
    bits = found["own_bpb/bits_per_byte"]
    assert isinstance(bits, Figure) and bits.value == pytest.approx(bits_per_byte(subject, TEXTS), rel=1e-4)
    assert bits.low < bits.value < bits.high and bits.n == 3 and bits.items is not None, "items for paired comparisons"
    right = hits(subject)
    accuracy = found["own_choice/acc"]
    assert isinstance(accuracy, Figure) and accuracy.value == sum(right) / len(right) and accuracy.n == 4
    assert list(accuracy.items.values) == right
    assert isinstance(found["own_write/exact_match"], Figure)
    assert isinstance(found["own_elsewhere"], Absent) and "not in the local cache" in found["own_elsewhere"].reason
    assert found["canary"].value < 1e-5
    assert all(isinstance(ids, list) and ids[0] == 0 and 0 not in ids[1:] for ids in sent), "one start token in each"


def test_without_a_sound_server_nothing_is_asked(
    base_folder: Path, data: EvaluationData, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lm_harness, "run_tasks", lambda *_: pytest.fail("the harness was started"))
    with ServedModel(base_folder, "shifted") as server, pytest.raises(DataError, match="shifted by one"):
        measure(Subject(base_folder, url=server.base_url), data)
    with pytest.raises(NoDataError, match="prealign serve"):
        measure(Subject(base_folder), data)
    with pytest.raises(NoDataError, match="--lm-eval"):
        measure(Subject(base_folder), dataclasses.replace(data, lm_eval_tasks=()))


def test_a_server_that_fails_later_is_no_score(base_folder: Path, data: EvaluationData):
    own = dataclasses.replace(data, lm_eval_tasks=("own_bpb",))
    with ServedModel(base_folder, "ignores_echo") as server:
        subject = Subject(base_folder, url=server.base_url)
        with pytest.raises(UnavailableError, match=r"own_bpb: .* ids were sent, 1 log-probabilities came"):
            lm_harness.run_tasks(subject, own, Served("tiny", 256, 0.0))


def test_an_unknown_task_is_named(base_folder: Path, data: EvaluationData, monkeypatch: pytest.MonkeyPatch):
    own = lm_harness.TaskManager(include_path=str(data.lm_eval_path), include_defaults=False)
    monkeypatch.setattr(lm_harness, "TaskManager", lambda **_: own)  # lm-eval's own list takes half a minute
    subject = Subject(base_folder, url="http://127.0.0.1:1/v1")
    asked = dataclasses.replace(data, lm_eval_tasks=("own_bbp",))
    found = lm_harness.run_tasks(subject, asked, Served("tiny", 256, 0.0))
    assert "no task 'own_bbp'; give the folder of your own with --lm-eval-path" in found["own_bbp"].reason


def test_answers_are_checked_one_by_one():
    def choice(index: int, values: list[Any]) -> dict[str, Any]:
        tops = [None, *({"a": -0.5} for _ in values[1:])]
        return {"index": index, "logprobs": {"token_logprobs": values, "top_logprobs": tops}}

    tokens, starts = [[0, 5, 6], [0, 7]], [2, 1]
    good = [choice(1, [None, -2.0, -9.0]), choice(0, [None, -1.0, -0.5, -9.0])]
    assert lm_harness.ServedModel.parse_logprobs({"choices": good}, tokens, starts) == [(-0.5, True), (-2.0, False)]
    for bad, message in (
        (good[:1], "2 prompts were sent, 1 answers came"),
        ([good[0], choice(0, [-9.0])], "3 ids were sent, 1 log-probabilities came"),
        ([good[0], choice(0, [None, -1.0, float("nan"), -9.0])], "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            lm_harness.ServedModel.parse_logprobs({"choices": bad}, tokens, starts)


def test_what_is_too_long_loses_its_beginning_and_never_the_start_token():
    model = SimpleNamespace(_start=0, max_length=7)
    long = ("key", [1, 2, 3, 4, 5, 6], [7, 8, 9])
    short = ("other", [0], [4, 5])
    inputs, starts, keys = lm_harness.ServedModel.batch_loglikelihood_requests(model, [[long, short]])
    assert inputs == [[0, 4, 5, 6, 7, 8, 9], [0, 4, 5]] and starts == [4, 1] and keys == ["key", "other"]
    with pytest.raises(ValueError, match="an answer of 7 tokens is longer"):
        lm_harness.ServedModel.batch_loglikelihood_requests(model, [[("key", [1], list(range(7)))]])
