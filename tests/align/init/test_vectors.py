"""Token vectors, the orthogonal map and what is made of both."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prealign_cpt.align.init import TextStatistics, static_rows
from prealign_cpt.align.init.neighbours import focus_mixture, sparsemax, wechsel_mixture
from prealign_cpt.align.init.procrustes import fit_map
from prealign_cpt.align.init.vecmap import make_vecmap
from prealign_cpt.align.init.vectors import _co_occurrences, train_vectors
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import DataError
from tests.align.init.conftest import ENGLISH, NUM_WORDS, TARGET, Ring, documents, ring_distance


def rotation(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Orthonormal rows."""
    noise = torch.randn(columns, rows, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise).Q.T


def test_co_occurrences_are_counted_in_both_directions():
    words, contexts, counts = _co_occurrences(np.array([0, 1, 1, -1, 0]), np.array([0, 0, 0, 0, 1]), 2)
    table = np.zeros((2, 2))
    table[words, contexts] = counts
    # 0 1 at distances one and two, 1 1 at one; -1 has no vector; the last 0 stands in another document.
    assert table.tolist() == [[0, 1.5], [1.5, 2]] and len(words) == 3


def test_words_in_equal_company_are_close(ring: Ring):
    vectors = ring.statistics().target_vectors(ring.grown)
    places = vectors.places[torch.arange(len(ring.base), len(ring.grown))]
    own = vectors.vectors_NK[places]
    torch.testing.assert_close(own.norm(dim=1), torch.ones(NUM_WORDS))
    nearest = (own @ own.T - 2 * torch.eye(NUM_WORDS)).argmax(dim=1).tolist()
    assert all(ring_distance(i, j) <= 3 for i, j in enumerate(nearest))


def test_rare_tokens_have_no_vector():
    documents = [np.arange(100, dtype=np.int32)] * 2 + [np.arange(50, dtype=np.int32)] * 200
    vectors = train_vectors(documents, 120, seed=0)
    assert vectors.ids.tolist() == list(range(50)) and (vectors.places[50:] == -1).all()


@pytest.mark.parametrize(("dims", "hidden"), [(6, 6), (4, 9), (9, 4)])
def test_a_known_map_is_recovered(dims: int, hidden: int):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, dims, generator=generator)
    turn = rotation(dims, hidden) if dims <= hidden else rotation(hidden, dims).T
    if dims > hidden:
        x = x @ turn @ turn.T  # what the rotation drops cannot be recovered
    center = torch.randn(hidden, generator=generator)
    y = 2.5 * x @ turn + center
    found = fit_map(x, y, torch.rand(40, generator=generator) + 0.1)
    torch.testing.assert_close(found(x), y, atol=1e-4, rtol=1e-4)
    assert found.scale == pytest.approx(2.5, rel=1e-4)
    square = found.rotation_KD @ found.rotation_KD.T if dims <= hidden else found.rotation_KD.T @ found.rotation_KD
    torch.testing.assert_close(square, torch.eye(min(dims, hidden)), atol=1e-5, rtol=0)


def test_weights_of_pairs_count():
    x = torch.eye(3)
    y = torch.stack([x[0], x[1], -x[2]])
    # Without its last pair this is the identity; a map cannot leave the third axis alone and turn it round.
    found = fit_map(torch.cat([x, x]), torch.cat([y, x]), torch.tensor([1.0, 1, 1e-6, 1, 1, 1]))
    torch.testing.assert_close(found(x), x, atol=1e-3, rtol=0)


def test_vecmap_finds_words_that_have_no_pair(ring: Ring, monkeypatch: pytest.MonkeyPatch):
    """The model's rows are a turned copy of the target's own space, so every new row is known."""
    monkeypatch.setattr("prealign_cpt.align.init.vectors.DIMENSIONS", 12)  # fewer than pairs, so they fix the rotation
    statistics = ring.statistics()
    vectors = statistics.target_vectors(ring.grown)
    own = vectors.vectors_NK[vectors.places[torch.arange(len(ring.base), len(ring.grown))]]
    hidden = own.shape[1] + 5
    tables = [torch.randn(len(ring.base), hidden), torch.randn(len(ring.base), hidden)]
    for i, table in enumerate(tables):
        table[ring.old_ids] = 3 * own @ rotation(own.shape[1], hidden, seed=i)
    texts = token_texts(ring.grown)[len(ring.base) :]
    align = Align(init="vecmap", steps=0)
    rows = static_rows(align, texts, ring.base, ring.grown, ring.pairs, tables[0], tables[1], statistics)
    assert rows.provenance == ["mapped"] * NUM_WORDS
    for new, table in zip((rows.input_MD, rows.output_MD), tables, strict=True):
        goal = table[torch.tensor(ring.old_ids)]
        assert torch.nn.functional.cosine_similarity(new, goal).min() > 0.999
        torch.testing.assert_close(new.norm(dim=1), table.norm(dim=1).mean().expand(NUM_WORDS))


def test_unseen_tokens_get_subword_rows(ring: Ring):
    words = TARGET[:-1]
    statistics = TextStatistics([documents(words, 1)], [documents(ENGLISH, 2)])
    table = torch.randn(len(ring.base), 8)
    texts = token_texts(ring.grown)[len(ring.base) :]
    subword = static_rows(Align(init="subword", steps=0), texts, ring.base, ring.grown, [], table, None)
    for init, kind in (("vecmap", "mapped"), ("wechsel", "neighbour")):
        align = Align(init=init, steps=0)
        rows = static_rows(align, texts, ring.base, ring.grown, ring.pairs, table, None, statistics)
        assert rows.provenance == [kind] * (NUM_WORDS - 1) + ["subword"]
        torch.testing.assert_close(rows.input_MD[-1], subword.input_MD[-1])


def test_wechsel_finds_words_that_have_no_pair(ring: Ring):
    mixture = wechsel_mixture(ring.base, ring.grown, ring.pairs, ring.statistics())
    weights = torch.zeros(NUM_WORDS, len(ring.base))
    weights[mixture.rows_N, mixture.ids_N] = mixture.weights_N
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(NUM_WORDS))
    assert ((weights > 0).sum(dim=1) == 10).all()
    best = weights[:, torch.tensor(ring.old_ids)].argmax(dim=1).tolist()
    assert all(ring_distance(i, best[i]) <= 2 for i in ring.heldout)


def test_focus_compares_with_old_tokens_in_the_target_text(ring: Ring):
    """Old words stand in place of every second target word, so the target words between them are alike."""
    mixed = [ENGLISH[i] if i % 2 else TARGET[i] for i in range(NUM_WORDS)]
    mixture = focus_mixture(ring.base, ring.grown, TextStatistics([documents(mixed, 3)], []))
    assert mixture.covered_M.tolist() == [i % 2 == 0 for i in range(NUM_WORDS)]
    place = {old: i for i, old in enumerate(ring.old_ids)}
    near = sum(
        weight
        for m, old, weight in zip(mixture.rows_N.tolist(), mixture.ids_N.tolist(), mixture.weights_N, strict=True)
        if old in place and ring_distance(m, place[old]) <= 3
    )
    assert near > 0.9 * NUM_WORDS / 2


def test_focus_without_old_tokens_in_the_text(ring: Ring):
    mixture = focus_mixture(ring.base, ring.grown, TextStatistics([documents(TARGET, 3)], []))
    assert mixture.size == NUM_WORDS


def test_sparsemax_is_a_projection_onto_the_simplex():
    scores = torch.tensor([[0.9, 0.7, 0.1], [2.0, 0.5, 0.0], [0.3, 0.3, 0.3]])
    expected = torch.tensor([[0.6, 0.4, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(sparsemax(scores), expected)


@pytest.mark.parametrize("init", ["vecmap", "focus", "wechsel"])
def test_text_that_is_too_small(ring: Ring, init: str):
    statistics = TextStatistics([documents(TARGET, 1, number=2)], [documents(ENGLISH, 2, number=2)])
    texts = token_texts(ring.grown)[len(ring.base) :]
    table = torch.randn(len(ring.base), 8)
    name = "english" if init == "wechsel" else "target"
    with pytest.raises(DataError, match=rf"text\.{name}: 400 tokens are too few .* 10000 or more; give more text"):
        static_rows(Align(init=init, steps=0), texts, ring.base, ring.grown, ring.pairs, table, None, statistics)


def test_too_few_pairs_for_a_map(ring: Ring):
    with pytest.raises(DataError, match=r"9 of 9 pairs .* a map needs 10 or more"):
        make_vecmap(ring.base, ring.grown, ring.pairs[:9], ring.statistics())
    strange = [Pair("unheard of", "QQQ") for _ in range(3)] + ring.pairs[:1]
    with pytest.raises(DataError, match="1 of 2 pairs"):
        make_vecmap(ring.base, ring.grown, strange, ring.statistics())


def test_the_seed_changes_vectors_only_by_rounding_and_turning(ring: Ring):
    one, other = (ring.statistics(seed).target_vectors(ring.grown).vectors_NK for seed in (0, 1))
    assert not torch.equal(one, other)
    assert math.isclose(float((one @ one.T - other @ other.T).abs().max()), 0, abs_tol=0.05)
