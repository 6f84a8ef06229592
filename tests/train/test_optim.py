"""New and old rows as two parameters in one tensor: against a model in which they really are two, and torch's AdamW.

Both the tied and the untied model are trained on two ranks and on one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train.optim import AdamW, make_optimizer, old_rows, rate_factor, rates
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import make_model, run_ranks
from tests.train.conftest import TABLES, VOCAB, full, mixture, reference, weights, write_models

FIRST_NEW = 41
"""In the second half, so that one of two ranks has both kinds of rows and the other only old ones."""
STEPS = 4
PHASE = 2
RECIPE = Train(
    steps=STEPS, sequences=6, micro_batch=2, lr=1e-2, embeddings_lr=2e-2, rows_lr=3e-2, rows_steps=PHASE, warmup=0.0,
    decay=0.0, clip=0.5, weight_decay=0.1, precision="fp32", eval_every=9, save_every=9,
)  # fmt: skip
CASES: dict[str, Any] = {"tied": "none", "untied": "none", "recomputed": "full"}


def _recipe(**changed: Any) -> Train:
    return Train(**({"sequences": 1, "eval_every": 1, "save_every": 1} | changed))


def _train(folder: Path, case: str, world: Any, recipe: Train = RECIPE) -> dict[str, Any]:
    """Weights before the first step and after each, gradient norms, and the first moments at the phase's end."""
    module = sharded(folder / ("untied" if case == "recomputed" else case), world, "fp32", CASES[case])
    optimizer, guard = make_optimizer(module, recipe, FIRST_NEW), SpikeGuard()
    found: dict[str, Any] = {"weights": [], "norms": [], "losses": [], "graded": []}
    names = {id(p): n for n, p in module.named_parameters()}
    graded: list[str] = []
    optimizer.register_step_pre_hook(
        lambda *_: graded.extend(n for n, p in module.named_parameters() if p.grad is not None)
    )
    for step in range(STEPS):
        found["weights"].append(weights(module))
        graded.clear()
        done = train_step(module, optimizer, mixture(folder), step, recipe, 0, world, guard)
        found["norms"].append(done.norm)
        found["losses"].append(done.loss)
        found["graded"].append(set(graded))
        if step == PHASE - 1:
            found["moments"] = {
                (names[id(p)], k): full(v) for p, values in optimizer.state.items() for k, v in values.items()
            }
    found["weights"].append(weights(module))
    return found


def _both(rank: int, size: int, folder: Path) -> dict[str, Any]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        found: dict[str, Any] = {case: _train(folder, case, world) for case in CASES}
        table = sharded(folder / "tied", world, "fp32").model.lm_head.weight
        found["old rows"] = [old_rows(table, split) for split in (0, 1, 33, 34, 35, 41, 66, 67, 70)]
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("optim"))


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_ranks(2, _both, folder)


@pytest.fixture(scope="module")
def alone(folder: Path, ranks: Any) -> dict[str, Any]:
    """One rank; and the tied model without a phase, with equal rates and with a rate of the new rows' own."""
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        found = {case: _train(folder, case, world) for case in CASES}
        for case in ("tied", "untied"):
            for name, rate in (("equal", 0.0), ("own", 5e-2)):
                recipe = _recipe(
                    steps=STEPS, sequences=6, lr=1e-2, rows_lr=rate, warmup=0.0, decay=0.0, precision="fp32",
                    weight_decay=0.0,
                )  # fmt: skip
                found[f"{case} {name}"] = _train(folder, case, world, recipe)
        return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2])
def test_the_rows_train_as_two_parameters_do(
    folder: Path, ranks: list[dict[str, Any]], alone: dict[str, Any], case: str, size: int
) -> None:
    expected = reference(folder, "untied" if case == "recomputed" else case, RECIPE, FIRST_NEW)
    for found in [alone[case]] if size == 1 else [rank[case] for rank in ranks]:
        # Adam divides by the gradient's own size: where that is rounding noise, so is the update, and from the second
        # step on a little of all else.
        assert found["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-6)
        assert found["norms"][0] == pytest.approx(expected["norms"][0], rel=1e-5)
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-3)
        for step in range(STEPS + 1):
            for name, value in expected["weights"][step].items():
                difference = np.abs(found["weights"][step][name] - value)
                assert (difference > 5e-5).sum() <= 1 + 1e-3 * 2**step * value.size and difference.max() <= 2e-2, (
                    step,
                    name,
                )


@pytest.mark.parametrize("case", CASES)
def test_at_first_only_new_rows_move_and_nothing_else_gathers_momentum(
    ranks: list[dict[str, Any]], alone: dict[str, Any], case: str
) -> None:
    for found in (alone[case], ranks[0][case], ranks[1][case]):
        first, last, joined = found["weights"][0], found["weights"][PHASE], found["weights"][PHASE + 1]
        assert found["graded"][:PHASE] == [TABLES & first.keys()] * PHASE, "no other gradient is formed"
        for name, before in first.items():
            fixed = slice(0, FIRST_NEW) if name in TABLES else slice(None)
            assert np.array_equal(before[fixed], last[name][fixed]), name
            assert not np.array_equal(before[fixed], joined[name][fixed]), name
            for moment in ("exp_avg", "exp_avg_sq"):
                assert not found["moments"][name, moment][fixed].any(), (name, moment)
            if name in TABLES:
                assert (np.abs(last[name][FIRST_NEW:] - before[FIRST_NEW:]).max(axis=1) > 0).all(), name
                assert found["moments"][name, "exp_avg"][FIRST_NEW:].any()


@pytest.mark.parametrize("case", ["tied", "untied"])
def test_the_first_updates_stand_in_the_ratio_of_the_rates(alone: dict[str, Any], case: str) -> None:
    before, equal, own = (
        alone[f"{case} equal"]["weights"][0],
        *(alone[f"{case} {n}"]["weights"][1] for n in ("equal", "own")),
    )
    for name in before:
        old = slice(0, FIRST_NEW) if name in TABLES else slice(None)
        assert np.array_equal(equal[name][old], own[name][old]), name
        if name in TABLES:
            moved = [(after[name] - before[name])[FIRST_NEW:] for after in (equal, own)]
            np.testing.assert_allclose(moved[1], 5 * moved[0], atol=1e-6)
            # The first step of Adam is the rate, whatever the gradient, where there is one.
            clear = np.abs(moved[0]) > 0.009
            assert clear.any()
            np.testing.assert_allclose(np.abs(moved[0][clear]).max(), 1e-2, rtol=1e-3)


def test_old_rows_of_a_shard_are_counted_by_their_place_in_the_whole(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["old rows"] == [0, 1, 33, 34, 34, 34, 34, 34, 34]
    assert ranks[1]["old rows"] == [0, 0, 0, 0, 1, 7, 32, 33, 33]


@pytest.mark.parametrize("split", [None, 0, 5, 9])
def test_it_is_the_adamw_of_torch(split: int | None) -> None:
    generator = torch.Generator().manual_seed(4)
    mine, theirs = (nn.Parameter(torch.ones(9, 3)) for _ in range(2))
    optimizer = AdamW([{"params": [mine], "weight_decay": 0.1, "split": split}])
    expected = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, foreach=False)
    for rate in (1e-2, 3e-2, 2e-2):
        mine.grad = torch.randn(9, 3, generator=generator)
        theirs.grad = mine.grad.clone()
        expected.param_groups[0]["lr"] = rate
        optimizer.set_rates(rate, rate)
        optimizer.step()
        expected.step()
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=0)


def test_weight_decay_is_for_matrices_only_and_every_parameter_is_there_once() -> None:
    module = LanguageModelLoss(make_model(VOCAB))
    groups = make_optimizer(module, _recipe(steps=1, weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.3]
    assert [{p.ndim for p in group["params"]} for group in groups] == [{2}, {1}, {2}]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in module.parameters())


def test_steps_of_new_rows_without_new_rows_are_the_recipe_s_fault() -> None:
    with pytest.raises(RecipeError, match=r"train\.rows_steps: 3 steps .* no new token"):
        make_optimizer(LanguageModelLoss(make_model(VOCAB)), _recipe(steps=9, rows_steps=3))


def test_wsd_warms_up_stays_and_decays_in_a_line_to_a_tenth() -> None:
    factors = [rate_factor(step, _recipe(steps=20, warmup=0.2, decay=0.5)) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:10] == [1.0] * 6
    assert factors[10:] == pytest.approx([1 - 0.09 * k for k in range(1, 11)])
    assert factors[-1] == pytest.approx(0.1)


def test_cosine_warms_up_and_falls_all_along_to_a_tenth() -> None:
    factors = [rate_factor(step, _recipe(steps=20, warmup=0.2, decay=0.5, schedule="cosine")) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[11] == pytest.approx(0.55), "half-way"
    assert factors[-1] == pytest.approx(0.1)
    falls = -np.diff(factors[3:])
    assert (falls > 0).all() and falls.argmax() in (7, 8)


@pytest.mark.parametrize("kind", ["wsd", "cosine"])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_schedules_have_no_holes(steps: int, warmup: float, decay: float, kind: Any) -> None:
    recipe = _recipe(steps=steps, warmup=warmup, decay=decay, schedule=kind)
    assert all(0 < rate_factor(step, recipe) <= 1 for step in range(steps))


def test_what_joins_later_warms_up_then_and_ends_with_the_rest() -> None:
    recipe = _recipe(steps=30, lr=1e-3, rows_lr=4e-3, rows_steps=10, warmup=0.2, decay=0.5)
    lr, rows = (np.array(column) for column in zip(*(rates(step, recipe) for step in range(30)), strict=True))
    assert (lr[:10] == 0).all() and (lr[10:] > 0).all()
    assert lr[10:15] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rows[:7] == pytest.approx([4e-3 * min(1, k / 6) for k in range(1, 8)])
    assert (lr[-1], rows[-1]) == pytest.approx((1e-4, 4e-4))


def test_without_a_rate_of_their_own_new_rows_move_with_the_rest() -> None:
    recipe = _recipe(steps=9, lr=1e-3)
    assert all(lr == rows for lr, rows in (rates(step, recipe) for step in range(9)))
