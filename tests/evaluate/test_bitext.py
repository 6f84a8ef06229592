"""Bitext mining: mteb and the plain definition agree, offline; the margin; servers that embed badly."""

import dataclasses
import itertools
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from prealign_cpt.evaluate.cosine import cosines, csls, nearest
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Figure
from prealign_cpt.evaluate.sentences import CHOOSING, bitext, bitext_layers, different, embed_served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError, UnavailableError
from prealign_cpt.serving import client
from tests.evaluate.served import ServedModel

WORDS = ["house", "river", "dog", "water", "king", "garden", "book", "sea", "night", "city", "moon", "road", "bread"]
TRIPLES = list(itertools.permutations(WORDS, 3))[::40]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.01)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to anything but this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        assert isinstance(address, str) or address[0] in ("127.0.0.1", "::1"), f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def data(tmp_path: Path) -> EvaluationData:
    """Pairs whose sides share most words: a random model finds many of them, and not all."""
    pairs = [(f"the {a} and the {b} of the {c}", f"der {a} und die {b} von {c} {c}") for a, b, c in TRIPLES]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return EvaluationData(parallel=tmp_path / "pairs.tsv", language="German")


def test_the_figures_are_their_definitions(base_folder: Path, data: EvaluationData):
    subject = Subject(base_folder)
    pairs = different(data.pairs())
    found = bitext(subject, data)
    assert set(found) == {
        f"{kind}/{way}/{layer}"
        for kind in ("f1", "accuracy", "margin")
        for way in ("english_to_target", "target_to_english")
        for layer in ("best", "last")
    }
    for layer in bitext_layers(subject, pairs):
        for way, vectors in (
            ("english_to_target", (layer.english, layer.target)),
            ("target_to_english", (layer.target, layer.english)),
        ):
            predicted = cosines(*vectors).argmax(dim=1).numpy()
            right = np.arange(len(predicted))
            accuracy, f1 = found[f"accuracy/{way}/{layer.name}"], found[f"f1/{way}/{layer.name}"]
            assert accuracy.value == pytest.approx((predicted == right).mean())
            assert 0 < accuracy.value < 1, "a case that shows a difference"
            assert "of 2" in f1.note and f1.n == len(right)
            sklearn = pytest.importorskip("sklearn.metrics")  # mteb's own score: each sentence is a class of one
            assert f1.value == pytest.approx(sklearn.f1_score(right, predicted, average="weighted"))
    assert "chosen on" in found["f1/english_to_target/best"].note


def test_the_layer_is_not_chosen_on_what_is_scored(
    base_folder: Path, data: EvaluationData, monkeypatch: pytest.MonkeyPatch
):
    """Layer 1 is perfect on the pairs that choose and wrong on all others, layer 2 the other way round."""
    pairs = different(data.pairs())
    n = len(pairs)
    choosing = torch.arange(n) % CHOOSING == 0
    english, wrong = torch.eye(n), torch.eye(n).roll(1, dims=0)
    ones = torch.ones(n, n)
    first = torch.where(choosing[:, None], english, wrong)
    second = torch.where(choosing[:, None], wrong, english)
    vectors = torch.stack([torch.cat([ones, ones]), torch.cat([english, first]), torch.cat([english, second])])
    monkeypatch.setattr("prealign_cpt.evaluate.sentences.embed_local", lambda subject, texts: vectors)
    best, last = bitext_layers(Subject(base_folder), pairs)
    assert best.note == f"mean of the tokens at layer 1 of 2, chosen on {int(choosing.sum())} other pairs"
    assert last.note == "mean of the tokens at layer 2 of 2"
    assert torch.equal(best.target, wrong[~choosing]) and torch.equal(last.target, english[~choosing])


def test_repeated_sentences_are_left_out():
    assert different([("a", "b"), ("a", "c"), ("d", "b"), ("e", "e"), ("b", "x"), ("f", "g")]) == [
        ("a", "b"),
        ("f", "g"),
    ]


def test_csls_is_its_definition_and_takes_hubs_back():
    generator = torch.Generator().manual_seed(0)
    similar = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    found = csls(similar, neighbours=2)
    for i in range(7):
        for j in range(5):
            near_x = sorted(similar[i].tolist())[-2:]
            near_y = sorted(similar[:, j].tolist())[-2:]
            assert float(found[i, j]) == pytest.approx(2 * float(similar[i, j]) - sum(near_x) / 2 - sum(near_y) / 2)
    hub = torch.tensor([[0.9, 0.2, 0.95], [0.2, 0.9, 0.95], [0.1, 0.1, 0.96]], dtype=torch.float64)
    assert nearest(hub).tolist() == [2, 2, 2] and nearest(csls(hub, 2)).tolist() == [0, 1, 2]


def test_constant_vectors_find_nothing():
    same = torch.ones(6, 4)
    assert nearest(cosines(same, same)).tolist() == [-1] * 6


def test_without_data_or_with_too_little(base_folder: Path, tmp_path: Path):
    with pytest.raises(NoDataError):
        bitext(Subject(base_folder), EvaluationData())
    (tmp_path / "few.tsv").write_text("a\tb\n" * 30)
    with pytest.raises(DataError, match=r"few.tsv: 1 different pairs; 20 are needed"):
        bitext(Subject(base_folder), EvaluationData(parallel=tmp_path / "few.tsv"))


def test_the_embeddings_server(base_folder: Path, data: EvaluationData, no_network: None):
    with ServedModel(base_folder) as server:
        subject = Subject(base_folder, embeddings_url=server.base_url)
        found = bitext(subject, data)
        sent = [ids for path, body in server.requests if path.endswith("embeddings") for ids in body["input"]]
    assert {name.rpartition("/")[2] for name in found} == {"served"}
    assert all(ids[0] == 0 and ids[1] != 0 for ids in sent), "one start token before each sentence"
    assert len(sent) == 2 * len(different(data.pairs())), "each sentence is embedded once for both directions"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "embeddings were asked for"),
        ("reordered", "another order"),
        ("nan", "not finite"),
        ("empty_vectors", "is expected"),
        ("error", "no usable answer"),
        ("truncated", "no usable answer"),
        ("dies", "no usable answer"),
    ],
)
def test_bad_embeddings_are_refused(base_folder: Path, fault: str, message: str):
    with (
        ServedModel(base_folder, fault, after=1) as server,
        pytest.raises((DataError, UnavailableError), match=message),
    ):
        embed_served(Subject(base_folder, embeddings_url=server.base_url), [f"the {word}" for word in WORDS])


def test_another_pooling_is_refused(base_folder: Path):
    with ServedModel(base_folder) as server:

        def last(ids: list[int], size: int) -> list[float]:
            with torch.inference_mode():
                states = server.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            found: list[float] = states[-1].tolist()
            return found

        server.vector = last
        with pytest.raises(DataError, match="serve this folder with pooling MEAN"):
            embed_served(Subject(base_folder, embeddings_url=server.base_url), [f"the {word} is old" for word in WORDS])


def test_tasks_of_mtebs_own_are_skipped_with_the_reason(base_folder: Path, no_network: None):
    pytest.importorskip("mteb")
    from prealign_cpt.evaluate import mteb_tasks

    data = EvaluationData(mteb_tasks=("Tatoeba:deu-eng", "Tatoeba:xx", "Tatoebba"))
    found = mteb_tasks.measure(Subject(base_folder), data)
    assert "not in the local cache (mteb/tatoeba-bitext-mining)" in found["Tatoeba:deu-eng"].reason
    assert "no such subset" in found["Tatoeba:xx"].reason
    assert "did you mean Tatoeba" in found["Tatoebba"].reason
    with pytest.raises(NoDataError, match="--mteb"):
        mteb_tasks.measure(Subject(base_folder), dataclasses.replace(data, mteb_tasks=()))


def test_a_task_of_mtebs_own_on_local_data(base_folder: Path, monkeypatch: pytest.MonkeyPatch, no_network: None):
    """Its data stand where mteb loads them; everything else is mteb's."""
    mteb = pytest.importorskip("mteb")
    import datasets

    from prealign_cpt.evaluate import mteb_tasks

    def local(self, *_: object, **__: object) -> None:
        rows = {"sentence1": [f"the {a}" for a in WORDS], "sentence2": [f"the {a} {a}" for a in WORDS]}
        self.dataset = {"deu-eng": datasets.DatasetDict(test=datasets.Dataset.from_dict(rows))}
        self.data_loaded = True

    monkeypatch.setattr(type(mteb.get_task("Tatoeba")), "load_data", local)
    found = mteb_tasks.measure(Subject(base_folder), EvaluationData(mteb_tasks=("Tatoeba:deu-eng",)))
    figure = found["Tatoeba:deu-eng/f1"]
    assert isinstance(figure, Figure) and 0 < figure.value <= 1 and figure.n == 1
