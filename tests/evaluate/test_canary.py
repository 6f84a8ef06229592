"""The canary tells a good server from those that would give wrong scores, and says what is wrong."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prealign_cpt.evaluate import served
from prealign_cpt.evaluate.served import check_served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import agreement, client
from tests.evaluate.served import ServedModel


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.01)


def subject_at(folder: Path, server: ServedModel) -> Subject:
    return Subject(folder, url=server.base_url)


def test_the_same_model_passes(base_folder: Path):
    with ServedModel(base_folder, names=("tiny",)) as server:
        found = check_served(subject_at(base_folder, server))
        assert found.name == "tiny" and found.length == 256 and found.difference < 1e-5
        _, body = server.requests[-1]
        ids = body["prompt"][0]
        assert ids[0] == 0 and ids[1] != 0, "one start token"
        assert body["echo"] is True


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shifted", "shifted by one"),
        ("no_logprobs", "came for none"),
        ("ignores_echo", "log-probabilities came for"),
        ("adds_start", "log-probabilities came for"),
        ("dropped_value", "log-probability None at position"),
    ],
)
def test_what_is_wrong_is_said(base_folder: Path, fault: str, message: str):
    with ServedModel(base_folder, fault) as server, pytest.raises(DataError, match=message):
        check_served(subject_at(base_folder, server))


def test_another_model_is_refused(base_folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(base_folder, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.get_input_embeddings().weight[-2:] += 0.3  # only the new rows, so to say
    model.save_pretrained(other)
    with ServedModel(other) as server, pytest.raises(DataError, match=r"holds another model"):
        check_served(subject_at(base_folder, server))


def test_a_server_in_bf16_passes_and_more_than_its_rounding_does_not(base_folder: Path, monkeypatch):
    """The bound is measured on the model: its rounding is 0.02 to 0.05 here, well above the tolerance of fp32."""
    with ServedModel(base_folder) as server:
        server.model.bfloat16()
        subject = subject_at(base_folder, server)
        found = check_served(subject)
        ids = served.canary_ids(subject)
        low, exact = served._in_both_types(subject, ids, [agreement.logprobs(subject.model, ids)])
        rounding, _ = agreement.distance(low, exact)
        assert served.TOLERANCE < found.difference <= agreement.ROUNDING_FACTOR * rounding
        monkeypatch.setattr(agreement, "ROUNDING_FACTOR", 0.5)
        with pytest.raises(DataError, match="what bf16 explains"):
            check_served(subject)


def test_a_server_that_is_away_is_no_score(base_folder: Path):
    with ServedModel(base_folder, "dies", after=1) as server, pytest.raises(UnavailableError):
        check_served(subject_at(base_folder, server))
    with ServedModel(base_folder, "error", times=2) as server:
        assert check_served(subject_at(base_folder, server)).difference < 1e-5, "two 500s are tried again"
