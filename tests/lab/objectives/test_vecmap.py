"""Token vectors, the orthogonal map and the rows that are made of both."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prealign_cpt.align.mixture import old_pieces, subword_mixture
from prealign_cpt.cli import main
from prealign_cpt.data.pack import encode
from prealign_cpt.lab.objectives import vecmap
from prealign_cpt.lab.objectives.vecmap import co_occurrences, fit_map, token_vectors, vecmap_rows
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.run.errors import DataError
from tests.align.conftest import DOUBLES, NUM_WORDS, Ring, documents, ring_distance


def rotation(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Orthonormal rows."""
    noise = torch.randn(columns, rows, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise).Q.T


def vectors_of(ring: Ring, seed: int = 0) -> Tensor:
    """Of the new tokens."""
    return token_vectors(encode(documents(DOUBLES, 1), ring.grown), len(ring.grown), seed)[len(ring.base) :]


def test_co_occurrences_are_counted_in_both_directions():
    ids, document = np.array([0, 1, 1, 2, 0], np.int32), np.array([0, 0, 0, 0, 1])
    counts = co_occurrences(ids, document, np.array([True, True, False]))
    # 0 1 at distances one and two, 1 1 at one; 2 has no vector; the last 0 stands in another document.
    assert counts.toarray()[:2, :2].tolist() == [[0, 1.5], [1.5, 2]] and counts.nnz == 3


def test_words_in_equal_company_are_close(ring: Ring):
    vectors = vectors_of(ring)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(NUM_WORDS))
    nearest = (vectors @ vectors.T - 2 * torch.eye(NUM_WORDS)).argmax(dim=1).tolist()
    assert all(ring_distance(i, j) <= 3 for i, j in enumerate(nearest))
    assert torch.equal(vectors, vectors_of(ring))
    other = vectors_of(ring, seed=1)
    assert float((vectors @ vectors.T - other @ other.T).abs().max()) < 0.05, "a seed turns vectors, no more"


def test_rare_tokens_have_no_vector():
    texts = [np.arange(100, dtype=np.int32)] * 2 + [np.arange(50, dtype=np.int32)] * 200
    known = token_vectors(texts, 120, seed=0).norm(dim=1) > 0
    assert known.nonzero().flatten().tolist() == list(range(50))


@pytest.mark.parametrize(("dims", "hidden"), [(6, 6), (4, 9), (9, 4)])
def test_a_known_map_is_recovered(dims: int, hidden: int):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, dims, generator=generator)
    turn = rotation(dims, hidden) if dims <= hidden else rotation(hidden, dims).T
    if dims > hidden:
        x = x @ turn @ turn.T  # what the rotation drops cannot be recovered
    center = torch.randn(hidden, generator=generator)
    y = 2.5 * x @ turn + center
    torch.testing.assert_close(fit_map(x, y, torch.rand(40, generator=generator) + 0.1)(x), y, atol=1e-4, rtol=1e-4)


def test_weights_of_pairs_count():
    x = torch.eye(3)
    y = torch.stack([x[0], x[1], -x[2]])
    # Without its last pair this is the identity; a map cannot leave the third axis alone and turn it round.
    mapped = fit_map(torch.cat([x, x]), torch.cat([y, x]), torch.tensor([1.0, 1, 1e-6, 1, 1, 1]))
    torch.testing.assert_close(mapped(x), x, atol=1e-3, rtol=0)


def test_words_that_have_no_pair_are_found(ring: Ring, monkeypatch: pytest.MonkeyPatch):
    """The model's rows are a turned copy of the target's own space, so every new row is known."""
    monkeypatch.setattr(vecmap, "DIMENSIONS", 12)  # fewer than pairs, so they fix the rotation
    vectors = vectors_of(ring)
    hidden = vectors.shape[1] + 5
    tables = [torch.randn(len(ring.base), hidden), torch.randn(len(ring.base), hidden)]
    for i, table in enumerate(tables):
        table[ring.old_ids] = 3 * vectors @ rotation(vectors.shape[1], hidden, seed=i)
    rows = vecmap_rows(ring.base, ring.grown, ring.pairs, documents(DOUBLES, 1), tables, 0)
    for new, table in zip(rows, tables, strict=True):
        goal = table[torch.tensor(ring.old_ids)]
        assert torch.nn.functional.cosine_similarity(new, goal).min() > 0.999
        torch.testing.assert_close(new.norm(dim=1), table.norm(dim=1).mean().expand(NUM_WORDS))


def test_unseen_tokens_get_subword_rows(ring: Ring):
    table = torch.randn(len(ring.base), 8)
    (rows,) = vecmap_rows(ring.base, ring.grown, ring.pairs, documents(DOUBLES[:-1], 1), [table], 0)
    pieces = old_pieces(token_texts(ring.grown)[len(ring.base) :], ring.base, ring.grown)
    same = (rows - subword_mixture(pieces).times(table)).abs().amax(dim=1) < 1e-6
    assert same.nonzero().flatten().tolist() == [NUM_WORDS - 1]


def test_too_little_text_and_too_few_pairs(ring: Ring):
    def run(pairs: list[Pair], number: int = 80) -> None:
        texts = documents(DOUBLES, 1, number=number)
        vecmap_rows(ring.base, ring.grown, pairs, texts, [torch.randn(len(ring.base), 8)], 0)

    with pytest.raises(DataError, match=r"text\.target: 400 tokens are too few .* 10000 or more; give more text"):
        run(ring.pairs, number=2)
    with pytest.raises(DataError, match=r"9 of 9 pairs .* a map needs 10 or more"):
        run(ring.pairs[:9])
    with pytest.raises(DataError, match="1 of 2 pairs"):
        run([Pair("unheard of", "QQQ") for _ in range(3)] + ring.pairs[:1])


def test_the_command_writes_rows_that_a_run_takes(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(vecmap, "MIN_TOKENS", 100)
    monkeypatch.setattr(vecmap, "MIN_PAIRS", 2)
    rows = tmp_path / "rows.safetensors"
    assert main(["vecmap", str(recipe_file), str(rows)]) == 0, capsys.readouterr().err
    assert load_file(rows)["input"].shape == (30, 32)
    flags = [
        "--align.init",
        "file",
        "--align.rows",
        str(rows),
        "--align.steps",
        "0",
        "--evaluate.before_training",
        "false",
    ]
    assert main(["align", str(recipe_file), *flags]) == 0, capsys.readouterr().err
