"""Bits per byte against a plain computation, and what must not change them."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import normalizers

from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.language_model import measure
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import run_suite
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from tests.conftest import ENGLISH, TARGET, make_model, make_tokenizer
from tests.evaluate.served import ServedModel


@pytest.fixture
def data(tmp_path: Path) -> EvaluationData:
    (tmp_path / "target.txt").write_text("\n\n".join(TARGET), encoding="utf-8")
    lines = (f"{a}\t{b}".replace("\n", " ") for a, b in zip(ENGLISH, TARGET, strict=True))
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return EvaluationData(target=(("test", tmp_path / "target.txt"),), parallel=tmp_path / "pairs.tsv")


def plain_nats(subject: Subject, text: str) -> float:
    """-log p of a text after the start token, one text at a time, by the model's own logits."""
    ids = [subject.start_token_id, *subject.tokenizer.encode(text, add_special_tokens=False)]
    with torch.no_grad():
        logits = subject.model(torch.tensor([ids])).logits[0, :-1].double()
    return float(F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))


def test_against_the_plain_computation(base_folder: Path, data: EvaluationData):
    subject = Subject(base_folder, device="cpu")
    result = measure(subject, data)
    expected = sum(plain_nats(subject, text) for text in TARGET) / math.log(2) / len("".join(TARGET).encode())
    figure = result["target/test/bits_per_byte"]
    assert figure.value == pytest.approx(expected, rel=1e-5)
    assert figure.low < figure.value < figure.high
    sums = [sum(plain_nats(subject, text.replace("\n", " ")) for text in texts) for texts in (TARGET, ENGLISH)]
    assert result["parity_nll"].value == pytest.approx(sums[0] / sums[1], rel=1e-5)
    assert isinstance(result["english/bits_per_byte"], Absent)


def test_beside_the_base(base_folder: Path, data: EvaluationData, tmp_path: Path):
    """The base beside itself has not changed; another model has."""
    same = measure(Subject(base_folder, device="cpu", base=base_folder), data)["change/target/test/bits_per_byte"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    tokenizer = make_tokenizer(ENGLISH * 4)
    make_model(len(tokenizer), spread=0.02).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    result = measure(Subject(tmp_path / "other", device="cpu", base=base_folder), data)
    change = result["change/target/test/bits_per_byte"]
    assert change.high < 0, "small weights are nearer to a uniform guess than large random ones"
    assert change.value == pytest.approx(
        result["target/test/bits_per_byte"].value - result["base/target/test/bits_per_byte"].value
    )


def test_a_lossy_tokenizer_is_marked(tmp_path: Path, data: EvaluationData):
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    make_model(len(tokenizer)).save_pretrained(tmp_path / "lossy")
    tokenizer.save_pretrained(tmp_path / "lossy")
    note = measure(Subject(tmp_path / "lossy", device="cpu"), data)["target/test/bits_per_byte"].note
    assert "NOT COMPARABLE: only 0.0%" in note


def test_a_text_longer_than_the_model(base_folder: Path, tmp_path: Path):
    (tmp_path / "long.txt").write_text("ä " * 400, encoding="utf-8")
    data = EvaluationData(target=(("test", tmp_path / "long.txt"),), window_bytes=4096)
    with pytest.raises(DataError, match=r"has \d+ tokens, 512 are possible; give a smaller --window-bytes"):
        measure(Subject(base_folder, device="cpu"), data)


def test_through_a_server(base_folder: Path, data: EvaluationData):
    """The same figures, and the base, which is not served, is scored here."""
    local = measure(Subject(base_folder, device="cpu", base=base_folder), data)
    with ServedModel(base_folder) as server:
        subject = Subject(base_folder, device="cpu", base=base_folder, url=server.base_url)
        served = measure(subject, data)
    for name in ("target/test/bits_per_byte", "base/target/test/bits_per_byte", "parity_nll"):
        assert served[name].value == pytest.approx(local[name].value, rel=1e-5)


@pytest.mark.parametrize("fault", ["ignores_echo", "shifted", "no_logprobs"])
def test_a_server_that_cannot_be_used_is_refused(base_folder: Path, data: EvaluationData, fault: str):
    with ServedModel(base_folder, fault) as server, pytest.raises(DataError, match=r"http://.*: .+"):
        measure(Subject(base_folder, device="cpu", url=server.base_url), data)


def test_a_server_that_dies_scores_nothing(
    base_folder: Path, data: EvaluationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "PAUSE", 0.01)
    with ServedModel(base_folder) as server:
        url = server.base_url
    outcome = run_suite(Subject(base_folder, device="cpu", url=url), data, tmp_path / "out", ["language_model"])
    assert outcome["language_model"].status == "failed"
    (absent,) = outcome["language_model"].result.values()
    assert isinstance(absent, Absent) and "attempts" in absent.reason
