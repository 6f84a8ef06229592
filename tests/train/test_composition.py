"""New rows that move together: against a model in which a row is `own + x C` and C a parameter, under torch's AdamW."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train.composition import MOMENTS, features
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import run_ranks
from tests.train.conftest import VOCAB, full, mixture, reference, weights, write_models

FIRST_NEW = 21
"""Rank 0 of two has old and new rows, rank 1 only new ones."""
STEPS = 4
RECIPE = Train(
    steps=STEPS, sequences=6, micro_batch=2, lr=1e-2, rows_lr=2e-2, composition_lr=3e-2, rows_steps=1, warmup=0.0,
    decay=0.0, clip=0.5, weight_decay=0.0, precision="fp32", eval_every=9, save_every=9,
)  # fmt: skip
SPELLINGS = [[m % 5, 2 * m % 17, m % 21][: m % 4] for m in range(VOCAB - FIRST_NEW)]
"""Some have none; several tokens have the same ones."""


REPLICAS = {1: 1, 2: 1, 4: 2}
"""By number of ranks."""


def _train(folder: Path, case: str, world: Any) -> list[dict[str, np.ndarray]]:
    """Weights after each step."""
    module = sharded(folder / case, world, "fp32", replicas=REPLICAS[world.size])
    optimizer, guard = make_optimizer(module, RECIPE, FIRST_NEW, SPELLINGS), SpikeGuard()
    found = []
    for step in range(STEPS):
        train_step(module, optimizer, mixture(folder), step, RECIPE, 0, world, guard)
        found.append(weights(module))
    return found


def _both(rank: int, size: int, folder: Path) -> dict[str, Any]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        return {case: _train(folder, case, world) for case in ("tied", "untied")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("composition"))


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[int, list[dict[str, Any]]]:
    return {size: run_ranks(size, _both, folder) for size in REPLICAS}


@pytest.mark.parametrize("case", ["tied", "untied"])
@pytest.mark.parametrize("size", REPLICAS)
def test_rows_move_as_if_the_map_were_a_part_of_the_model(
    folder: Path, ranks: dict[int, list[dict[str, Any]]], case: str, size: int
) -> None:
    expected = reference(folder, case, RECIPE, FIRST_NEW, SPELLINGS)["weights"][1:]
    for found in (rank[case] for rank in ranks[size]):
        for step in range(STEPS):
            for name, value in expected[step].items():
                # Adam divides by the gradient's own size: where that is rounding noise, so is the update.
                np.testing.assert_allclose(found[step][name], value, atol=1e-4, err_msg=f"{step} {name}")


def test_features_are_first_last_mean_and_one() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0], [4.0, 3.0]])  # each of norm 5
    found = features([[0, 1, 2], [3], []], rows)
    mean = [(3 + 0 + 5) / 15, (4 + 5 + 0) / 15]
    expected = [[0.6, 0.8, 1.0, 0.0, *mean, 1], [0.8, 0.6, 0.8, 0.6, 0.8, 0.6, 1], [0, 0, 0, 0, 0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert features([[], []], rows).tolist() == [[0.0] * 6 + [1.0]] * 2
    assert features([], rows).shape == (0, 7)


def test_tokens_that_are_spelled_alike_take_the_same_step_whichever_of_them_is_read(folder: Path) -> None:
    """The first step of the input rows of an untied model, but for their own part of it, which is at a rate near 0."""
    recipe = dataclasses.replace(RECIPE, rows_lr=1e-9, rows_steps=0)
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        module = sharded(folder / "untied", world, "fp32")
        before = full(module.get_parameter("model.model.embed_tokens.weight"))[FIRST_NEW:]
        optimizer = make_optimizer(module, recipe, FIRST_NEW, SPELLINGS)
        train_step(module, optimizer, mixture(folder), 0, recipe, 0, world, SpikeGuard())
        moved = full(module.get_parameter("model.model.embed_tokens.weight"))[FIRST_NEW:] - before
    read = {int(i) - FIRST_NEW for i in np.unique(mixture(folder).rows(list(range(RECIPE.sequences)))[0])}
    unread = [m for m in range(len(SPELLINGS)) if m not in read and SPELLINGS.count(SPELLINGS[m]) > 1]
    assert unread, "the case is empty"
    for m in unread:
        twin = next(k for k in range(len(SPELLINGS)) if k != m and SPELLINGS[k] == SPELLINGS[m])
        assert np.abs(moved[m]).max() > 1e-3
        np.testing.assert_allclose(moved[m], moved[twin], atol=1e-6)


@pytest.mark.parametrize("rate, spellings", [(0.0, SPELLINGS), (1e-2, None), (1e-2, [])])
def test_without_a_rate_or_spellings_there_is_no_map(folder: Path, rate: float, spellings: Any) -> None:
    recipe = dataclasses.replace(RECIPE, composition_lr=rate)
    optimizer = make_optimizer(LanguageModelLoss(load_whole(folder / "tied")), recipe, FIRST_NEW, spellings)
    assert not any(name in state for state in optimizer.state.values() for name in MOMENTS)
