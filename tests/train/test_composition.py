"""New rows that move together: against a model in which a row is `own + x C` and C a parameter, under torch's AdamW."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from prealign_cpt.data.batches import positions
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train.composition import MOMENTS, features
from prealign_cpt.train.loop import train_step
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.spikes import SpikeGuard
from tests.conftest import make_model, run_ranks
from tests.train.conftest import VOCAB, full, mixture, weights, write_text

FIRST_NEW = 21
"""Rank 0 of two has old and new rows, rank 1 only new ones."""
STEPS = 4
RECIPE = Train(
    steps=STEPS, sequences=6, micro_batch=2, lr=1e-2, rows_lr=2e-2, composition_lr=3e-2, rows_steps=1, warmup=0.0,
    decay=0.0, clip=0.5, weight_decay=0.0, precision="fp32", eval_every=9, save_every=9,
)  # fmt: skip
TABLES = {"model.model.embed_tokens.weight", "model.lm_head.weight"}
PIECES = [[m % 5, 2 * m % 17, m % 21][: m % 4] for m in range(VOCAB - FIRST_NEW)]
"""Some have none; several tokens have the same ones."""


REPLICAS = {1: 1, 2: 1, 3: 1, 4: 2}
"""By number of ranks."""


def _train(folder: Path, case: str, world: Any) -> list[dict[str, np.ndarray]]:
    """Weights after each step."""
    module = sharded(folder / case, world, "fp32", replicas=REPLICAS[world.size])
    optimizer, guard = make_optimizer(module, RECIPE, FIRST_NEW, PIECES), SpikeGuard()
    found = []
    for step in range(STEPS):
        train_step(module, optimizer, mixture(folder), step, RECIPE, 0, world, guard)
        found.append(weights(module))
    return found


def _both(rank: int, size: int, folder: Path) -> dict[str, Any]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        return {case: _train(folder, case, world) for case in ("tied", "untied")}


def _reference(folder: Path, case: str) -> list[dict[str, np.ndarray]]:
    model = load_whole(folder / case).train()
    whole = LanguageModelLoss(model)
    old = {n: nn.Parameter(p.detach()[:FIRST_NEW].clone()) for n, p in whole.named_parameters() if n in TABLES}
    own = {n: nn.Parameter(p.detach()[FIRST_NEW:].clone()) for n, p in whole.named_parameters() if n in TABLES}
    x_MK = features(PIECES, model.get_input_embeddings().weight.detach()[:FIRST_NEW])
    maps = {n: nn.Parameter(torch.zeros(x_MK.shape[1], p.shape[1])) for n, p in own.items()}
    body = {n: p for n, p in whole.named_parameters() if n not in TABLES}
    groups = [[*body.values(), *old.values()], [*own.values()], [*maps.values()]]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], betas=(0.9, 0.95), weight_decay=0.0)
    for group, rate in zip(optimizer.param_groups, (RECIPE.lr, RECIPE.rows_lr, RECIPE.composition_lr), strict=True):
        group["lr"] = rate
    found = []
    for step in range(STEPS):
        inputs, labels = mixture(folder).rows(list(range(step * RECIPE.sequences, (step + 1) * RECIPE.sequences)))
        tables = {n: torch.cat([old[n], own[n] + x_MK @ maps[n]]) for n in old}
        if len(tables) == 1:
            tables["model.lm_head.weight"] = next(iter(tables.values()))
        call = {n.removeprefix("model."): v for n, v in tables.items()}
        arguments = {"input_ids": inputs, "position_ids": positions(inputs, 0), "use_cache": False}
        logits = functional_call(model, call, kwargs=arguments, tie_weights=False).logits
        optimizer.zero_grad()
        F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1)).backward()
        if step < RECIPE.rows_steps:
            for p in groups[0]:
                p.grad = None
        # The gradient's norm is that of the rows themselves; the map has no part in it.
        norm = nn.utils.clip_grad_norm_([p for group in groups[:2] for p in group], RECIPE.clip)
        for p in groups[2]:
            p.grad.mul_(min(1.0, RECIPE.clip / (float(norm) + 1e-6)))
        optimizer.step()
        found.append(
            {n: full(torch.cat([old[n], own[n] + x_MK @ maps[n]]) if n in old else p)
             for n, p in whole.named_parameters()}
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composition")
    for name in ("tied", "untied"):
        make_model(VOCAB, tied=name == "tied").save_pretrained(folder / name)
    write_text(folder, 24)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[int, list[dict[str, Any]]]:
    return {size: run_ranks(size, _both, folder) for size in REPLICAS}


@pytest.mark.parametrize("case", ["tied", "untied"])
@pytest.mark.parametrize("size", REPLICAS)
def test_rows_move_as_if_the_map_were_a_part_of_the_model(
    folder: Path, ranks: dict[int, list[dict[str, Any]]], case: str, size: int
) -> None:
    expected = _reference(folder, case)
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


def test_tokens_with_the_same_pieces_take_the_same_step_whichever_of_them_is_read(folder: Path) -> None:
    """The first step of the input rows of an untied model, but for their own part of it, which is at a rate near 0."""
    recipe = dataclasses.replace(RECIPE, rows_lr=1e-9, rows_steps=0)
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        module = sharded(folder / "untied", world, "fp32")
        before = full(module.get_parameter("model.model.embed_tokens.weight"))[FIRST_NEW:]
        optimizer = make_optimizer(module, recipe, FIRST_NEW, PIECES)
        train_step(module, optimizer, mixture(folder), 0, recipe, 0, world, SpikeGuard())
        moved = full(module.get_parameter("model.model.embed_tokens.weight"))[FIRST_NEW:] - before
    read = {int(i) - FIRST_NEW for i in np.unique(mixture(folder).rows(list(range(RECIPE.sequences)))[0])}
    unread = [m for m in range(len(PIECES)) if m not in read and PIECES.count(PIECES[m]) > 1]
    assert unread, "the case is empty"
    for m in unread:
        twin = next(k for k in range(len(PIECES)) if k != m and PIECES[k] == PIECES[m])
        assert np.abs(moved[m]).max() > 1e-3
        np.testing.assert_allclose(moved[m], moved[twin], atol=1e-6)


@pytest.mark.parametrize("rate, pieces", [(0.0, PIECES), (1e-2, None), (1e-2, [])])
def test_without_a_rate_or_pieces_there_is_no_map(folder: Path, rate: float, pieces: Any) -> None:
    recipe = dataclasses.replace(RECIPE, composition_lr=rate)
    optimizer = make_optimizer(LanguageModelLoss(load_whole(folder / "tied")), recipe, FIRST_NEW, pieces)
    assert not any(name in state for state in optimizer.state.values() for name in MOMENTS)
