"""Sentence alignment: what cannot fool which measure (evaluation.md 1.4), and plain references."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prealign_cpt.evaluate.cosine import cosines
from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.sentences import anc, cka, cosine_gap, measure, mexa, sentence_vectors
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError
from tests.conftest import ENGLISH, TARGET

SENTENCES = [(a, b) for one, other in zip(ENGLISH, TARGET, strict=True)
             for a, b in zip(one.split(". "), other.split(". "), strict=False)]  # fmt: skip


def vectors(n: int = 200, d: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_mexa_word_by_word():
    x, y = vectors(40, 6), vectors(40, 6) + 0.8 * torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    similar = cosines(x, y).numpy()
    expected = [
        all(similar[i, i] > similar[i, j] and similar[i, i] > similar[j, i] for j in range(40) if j != i)
        for i in range(40)
    ]
    found = mexa(cosines(x, y))
    assert 0.1 < found.mean() < 0.9
    assert found.tolist() == expected
    gap = [
        similar[i, i] - np.mean([v for j in range(40) if j != i for v in (similar[i, j], similar[j, i])])
        for i in range(40)
    ]
    assert np.allclose(cosine_gap(cosines(x, y)), gap)


@pytest.mark.parametrize("n", [10, 200, 1000])
def test_collapse(n: int):
    """Constant vectors: the mean cosine is 1, and nothing is aligned."""
    same = vectors(1).expand(n, 64)
    similar = cosines(same, same.clone())
    assert float(similar.diagonal().mean()) == pytest.approx(1.0)
    assert mexa(similar).sum() == 0
    assert np.allclose(cosine_gap(similar), 0.0)
    assert (cka(same, same), anc(same, same)) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_a_shared_direction_is_no_alignment():
    """A large common part lifts every cosine; strict nearest neighbours and the gap do not care."""
    x, y = vectors() + 100, vectors(seed := 200) + 100
    y = y[torch.randperm(seed, generator=torch.Generator().manual_seed(3))]
    similar = cosines(x, y)
    assert float(similar.diagonal().mean()) > 0.99
    assert mexa(similar).mean() < 0.1 and abs(cosine_gap(similar).mean()) < 0.01


@pytest.mark.parametrize("n", [10, 30, 200])
def test_cka_of_unrelated_vectors_is_near_zero(n: int):
    """The biased estimate is 0.9 for ten vectors of 64 numbers. Ten draws, as one of few vectors is noise."""
    values = [cka(vectors(n, seed=seed), vectors(n, seed=100 + seed)) for seed in range(10)]
    assert abs(np.mean(values)) < 0.05 and max(map(abs, values)) < 0.4


def test_cka_against_the_formula():
    """Song et al. 2012, equation 5, term by term; shifted vectors are the same."""

    def hsic(k, l):  # noqa: E741
        n, one = len(k), torch.ones(len(k), dtype=torch.double)
        k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
        sums = one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
        return ((k @ l).trace() + sums - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    x, y = vectors(12).double(), vectors(12, seed=7).double() + vectors(12).double()
    k, l = x @ x.T, y @ y.T  # noqa: E741
    assert cka(x + 9, y - 4) == pytest.approx(float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()))


def test_rotation():
    """CKA is blind to it, ANC is not."""
    x = vectors()
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(4)))[0]
    assert cka(x, x @ turn) == pytest.approx(1.0)
    assert anc(x, x @ turn) < 0.25
    assert (cka(x, x), anc(x, x)) == pytest.approx((1.0, 1.0))
    assert anc(x, -3 * x + 5) == pytest.approx(1.0)


def test_bf16_is_compared_in_full_precision():
    """A thousand nearly equal bf16 vectors: only in fp64 is each nearest to itself."""
    x = (vectors(1000, 64) * 0.02 + 1).bfloat16()
    unit = torch.nn.functional.normalize(x, dim=1)
    low = (unit @ unit.T).float()
    strict = low.diagonal() > low.clone().fill_diagonal_(-1).max(dim=1).values
    assert float(strict.float().mean()) < 0.9
    assert mexa(cosines(x, x)).mean() > 0.99


def test_vectors_are_the_weighted_means(base_folder: Path):
    subject = Subject(base_folder, device="cpu")
    texts = [english for english, _ in SENTENCES]
    found = sentence_vectors(subject, texts, batch_tokens=100)
    for i in (0, 3, len(texts) - 1):
        ids = subject.tokenizer.encode(texts[i], add_special_tokens=False)
        with torch.no_grad():
            states = subject.model(
                torch.tensor([[subject.start_token_id, *ids]]), output_hidden_states=True
            ).hidden_states
        for layer, hidden in enumerate(states):
            weight = torch.arange(1, len(ids) + 1).float()
            expected = (hidden[0, 1:] * weight[:, None]).sum(dim=0) / weight.sum()
            assert torch.allclose(found[layer, i], expected, atol=1e-5)


def write(path: Path, pairs: list[tuple[str, str]]) -> EvaluationData:
    path.write_text("".join(f"{a}\t{b}\n".replace("\n", " ").strip() + "\n" for a, b in pairs), encoding="utf-8")
    return EvaluationData(parallel=path)


def test_a_language_that_is_english(base_folder: Path, tmp_path: Path):
    texts = [english.replace("\n", " ") for english, _ in SENTENCES]
    result = measure(Subject(base_folder, device="cpu"), write(tmp_path / "p.tsv", [(t, t) for t in texts]))
    assert {result[name].value for name in ("mexa", "mexa_max")} == {1.0}
    assert result["cka"].value == pytest.approx(1.0) and result["anc"].value == pytest.approx(1.0)
    assert result["anc_mismatched"].value < 0.6 and result["cka_mismatched"].value < 0.9
    assert result["gap"].value > 0
    assert set(result) >= {f"layer/{layer}/{name}" for layer in range(3) for name in ("mexa", "gap", "cka", "anc")}


def test_wrong_translations(base_folder: Path, tmp_path: Path):
    texts = [english.replace("\n", " ") for english, _ in SENTENCES]
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    result = measure(Subject(base_folder, device="cpu"), write(tmp_path / "p.tsv", pairs))
    assert result["mexa_max"].value == 0.0


def test_too_few(base_folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match="3 sentence pairs, 10 are needed"):
        measure(Subject(base_folder, device="cpu"), write(tmp_path / "p.tsv", [("a", "b")] * 3))
