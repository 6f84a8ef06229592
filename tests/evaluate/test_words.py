"""Word retrieval: CSLS against a plain reference, and words whose translation is known to be near or not there."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prealign_cpt.evaluate.cosine import centred, crossed, csls, ranks
from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.words import WAYS, measure
from prealign_cpt.run.errors import DataError, NumericError
from tests.conftest import ENGLISH, PAIRS, make_model, make_tokenizer

WORDS = sorted({source for source, _ in PAIRS})
CLONES = [(word, f"zz{word}") for word in WORDS]
TRAIN, HELDOUT = CLONES[:12], CLONES[12:]


def plain_csls(x: list[list[float]], y: list[list[float]], k: int) -> list[list[float]]:
    """Conneau et al. 2018, section 2.3, word by word."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))

    def near(a: list[float], others: list[list[float]]) -> float:
        return sum(sorted((cosine(a, b) for b in others), reverse=True)[:k]) / k

    return [[2 * cosine(a, b) - near(a, y) - near(b, x) for b in y] for a in x]


def test_csls_is_that_of_the_paper():
    torch.manual_seed(0)
    x, y = torch.randn(15, 6, dtype=torch.double), torch.randn(17, 6, dtype=torch.double)
    unit = torch.nn.functional.normalize
    found = csls(unit(x) @ unit(y).T, neighbours=4)
    assert torch.allclose(found, torch.tensor(plain_csls(x.tolist(), y.tolist(), 4), dtype=torch.double))


def test_csls_undoes_a_hub():
    """A candidate that is near to all words wins by cosine and loses by CSLS."""
    cosine = torch.eye(5) * 0.2 + 0.6
    cosine = torch.cat([cosine, torch.full((5, 1), 0.85)], dim=1)
    assert ranks(cosine, [[i] for i in range(5)]).tolist() == [1] * 5
    assert ranks(csls(cosine, 3), [[i] for i in range(5)]).tolist() == [0] * 5


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.7, 0.1], [0.2, 0.2, 0.2, 0.2], [0.1, 0.8, 0.9, 0.0]])
    assert ranks(scores, [[1], [0], [1, 2]]).tolist() == [2, 3, 0], "equal scores are no find; any translation counts"


def test_no_word_has_a_say_in_the_layer_that_judges_it():
    even = np.arange(9) % 2 == 0
    # Layer 0 finds the even words, layer 1 the odd ones: what is best for either half finds nothing of the other.
    layers = crossed(np.array([even, ~even, np.zeros(9, dtype=bool)]))
    assert layers.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    # Where the halves agree, their words are judged at the layer that is best for both.
    assert crossed(np.array([np.zeros(9), np.arange(9) > 5, np.arange(9) > 3], dtype=bool)).tolist() == [2] * 9
    assert crossed(np.array([[True], [True]])).tolist() == [0]


def test_equal_vectors_become_nothing():
    assert not centred(torch.full((4, 3), 0.7)).any()
    with pytest.raises(NumericError):
        centred(torch.tensor([[1.0, math.nan]]))


def save_pairs(
    folder: Path, train: list[tuple[str, str]], heldout: list[tuple[str, str]], **more: object
) -> EvaluationData:
    for name, pairs in (("train", train), ("heldout", heldout)):
        (folder / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return EvaluationData(lexicon_train=folder / "train.tsv", lexicon_heldout=folder / "heldout.tsv", **more)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which every word is a token and has a clone, a token with the same row."""
    folder = tmp_path_factory.mktemp("cloned")
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.add_tokens([f" {word}" for word in WORDS])
    tokenizer.add_tokens([f" zz{word}" for word in WORDS])
    model = make_model(len(tokenizer))
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[-len(WORDS) :] = weight[-2 * len(WORDS) : -len(WORDS)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_equal_rows_are_found_both_ways(cloned: Path, tmp_path: Path):
    result = measure(Subject(cloned, device="cpu"), save_pairs(tmp_path, TRAIN, HELDOUT))
    for way in WAYS:
        for figure in ("p1_csls", "p5_csls", "p1_nn", "p1_csls_all", "p1_csls_seen", "coverage"):
            assert result[f"{way}/{figure}"].value == 1.0
        assert result[f"{way}/p1_csls"].n == len(HELDOUT)
        assert result[f"{way}/candidates"].value == len(CLONES)
        assert result[f"{way}/hub_nn"].value == pytest.approx(1 / len(HELDOUT))
    assert isinstance(result["english_to_target/p1_csls_identical"], Absent)
    assert {f"english_to_target/layer/{layer}/p1_nn" for layer in range(3)} <= set(result)


def test_other_rows_are_not_found_and_the_text_adds_candidates(base_folder: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("Der Fluss fließt langsam, der Hund bellt.", encoding="utf-8")
    more = {"target": (("test", tmp_path / "text.txt"),)}
    result = measure(Subject(base_folder, device="cpu"), save_pairs(tmp_path, PAIRS[:12], PAIRS[12:], **more))
    assert result["english_to_target/p1_csls"].value < 0.5
    targets = {target for _, target in PAIRS} | {"Der", "Fluss", "fließt", "langsam", "der", "Hund", "bellt"}
    assert result["english_to_target/candidates"].value == len(targets)


def test_equal_spelling_is_reported_apart(cloned: Path, tmp_path: Path):
    same = [("garden", "garden"), ("zzz", "yyy")]
    train = [pair for pair in TRAIN if pair[0] != "garden"]
    heldout = [pair for pair in HELDOUT if pair[0] != "garden"]
    result = measure(Subject(cloned, device="cpu"), save_pairs(tmp_path, train, heldout + same[:1]))
    assert result["english_to_target/p1_csls"].n == len(heldout)
    assert result["english_to_target/p1_csls_identical"].n == 1


def test_a_word_that_cannot_be_written_counts_as_wrong(tmp_path: Path):
    """A tokenizer of whole words does not know half of the held-out words."""
    known = [word for pair in TRAIN + HELDOUT[: len(HELDOUT) // 2] for word in pair]
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1} | {w: i for i, w in enumerate(known, 2)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", bos_token="a")
    model = make_model(len(tokenizer))
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[3::2] = weight[2::2]
    model.save_pretrained(tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    result = measure(Subject(tmp_path / "words", device="cpu"), save_pairs(tmp_path, TRAIN, HELDOUT))
    half = len(HELDOUT) // 2
    assert result["english_to_target/coverage"].value == half / len(HELDOUT)
    assert result["english_to_target/p1_csls"].value == 1.0 and result["english_to_target/p1_csls"].n == half
    assert result["english_to_target/p1_csls_all"].value == half / len(HELDOUT)
    assert result["english_to_target/p1_csls_all"].n == len(HELDOUT)


def test_nothing_to_look_up(base_folder: Path, tmp_path: Path):
    data = save_pairs(tmp_path, [("Haus", "haus")], PAIRS)
    result = measure(Subject(base_folder, device="cpu"), data)
    assert "training half" in result["english_to_target/p1_csls"].reason


def test_collapsed_vectors_find_nothing():
    same = centred(torch.randn(1, 8).expand(6, 8))
    assert (ranks(csls(same @ same.T), [[i] for i in range(6)]) == 5).all()
    assert np.isfinite(csls(same @ same.T).numpy()).all()


def test_a_run_that_was_trained_on_the_held_out_words(cloned: Path, tmp_path: Path):
    run = tmp_path / "run"
    (run / "lexicon").mkdir(parents=True)
    shutil.copytree(cloned, run / "export")
    (run / "recipe.toml").write_text("[base]\n")
    (run / "lexicon" / "clean.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in CLONES[:14]))
    with pytest.raises(DataError, match="trained with 2 of the"):
        measure(Subject(run, device="cpu"), save_pairs(tmp_path, TRAIN, HELDOUT))
    (run / "lexicon" / "clean.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in TRAIN))
    assert (
        measure(Subject(run, device="cpu"), save_pairs(tmp_path, TRAIN, HELDOUT))["english_to_target/p1_csls"].value
        == 1
    )
