"""The training loop on two gloo ranks: stopping, resuming, skipping spikes, refusing numbers that are not finite.

All that needs two ranks happens in one start of them (`_on_both_ranks`); the tests read what it brought back.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prealign_cpt.data.mixture import Mixture, PackedText
from prealign_cpt.model.bits import Batch, score
from prealign_cpt.model.load import blocks, load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run import signals
from prealign_cpt.run.errors import NumericError, RecipeError
from prealign_cpt.train import checkpoint
from prealign_cpt.train import step as train_steps
from prealign_cpt.train.loop import evaluate, token_nats, train
from prealign_cpt.train.optim import rate_factor
from prealign_cpt.train.shard import sharded
from tests.conftest import make_model, run_ranks
from tests.train.conftest import LENGTH, VOCAB, weights, write_text

INPUTS = {"align": "a", "data": "d", "recipe": "r"}
RECIPE = Train(
    steps=6, sequences=4, micro_batch=1, lr=1e-2, warmup=0.2, decay=0.5, precision="fp32",
    eval_every=3, save_every=2, keep=2,
)  # fmt: skip
ROWS = dataclasses.replace(RECIPE, rows_lr=3e-2, rows_steps=3)
FIRST_NEW = 41
PIECES = [[m % 7, 3 * m % 41][: 1 + m % 2] for m in range(VOCAB - FIRST_NEW)]


class Tampered(Mixture):
    """Does something at the moment in which the sequences of a step are read."""

    def __init__(self, folder: Path, step: int = -1, act: Any = None) -> None:
        super().__init__([PackedText(folder)], [], 0.0, seed=3)
        self.step, self.act = step, act

    def rows(self, numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if numbers[0] // RECIPE.sequences == self.step - 1:
            self.act()
        return super().rows(numbers)


def _valid() -> dict[str, list[Batch]]:
    """Three batches, so that two ranks have unequal shares."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for width in (5, 9, 13):
        inputs = torch.randint(1, VOCAB, (2, width), generator=generator)
        inputs[:, 0] = 0
        labels = inputs.clone()
        labels[1, width - 2 :] = -100
        place = torch.arange(width).expand(2, width).contiguous()
        windows = ((2 * width, 5 * width), (2 * width + 1, 5 * width))
        batches.append(Batch(inputs, labels, place, 10 * width, 2 * width - 4, windows))
    return {"target": batches, "english": batches[:1]}


def _local(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.to_local().detach().clone() for p in module.parameters()]


def _go(folder: Path, name: str, world: World, mixture: Mixture | None = None, **changed: Any) -> dict[str, Any]:
    """Train in the run folder `folder/name` from its newest checkpoint, with a fresh module; what came of it."""
    run = folder / name
    if world.rank == 0:
        (run / "train").mkdir(parents=True, exist_ok=True)
    world.any(False)  # a barrier
    module = changed.get("module") or sharded(folder / "base", world, "fp32")
    mixture = mixture or Tampered(folder)
    found: dict[str, Any] = {"error": None}
    try:
        found["summary"] = train(
            module, mixture, _valid(), changed.get("recipe", RECIPE), 0, run / "train", changed.get("inputs", INPUTS),
            world, FIRST_NEW, PIECES,
        )  # fmt: skip
    except (signals.StoppedError, NumericError, RecipeError) as error:
        found["error"] = f"{type(error).__name__}: {error}"
    found["weights"] = weights(module) if found["error"] is None else None
    signals._requested = None
    signals.install()  # a run that was stopped ignores them from then on
    return found


def _not_finite(folder: Path, name: str, world: World) -> dict[str, Any]:
    """At step 5 a weight of rank 1, or a gradient there, becomes NaN."""
    module = sharded(folder / "base", world, "fp32")
    poisoned, before = [False], []

    def spoil() -> None:
        before.extend(_local(module))
        if world.rank == 1 and name == "weight":
            before[-1][0] = math.nan
            with torch.no_grad():
                list(module.parameters())[-1].to_local()[0] = math.nan
        poisoned[0] = world.rank == 1 and name == "gradient"

    def poison(_: Any, __: Any, output: Any) -> None:
        if poisoned[0]:
            (output[0] if isinstance(output, tuple) else output).register_hook(lambda gradient: gradient * math.nan)

    blocks(module.model)[0].mlp.register_forward_hook(poison)
    found = _go(folder, "nan-" + name, world, Tampered(folder, 5, spoil), module=module)
    after = _local(module)
    found["unchanged"] = all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before, after, strict=True))
    return found


def _spikes(folder: Path, name: str, world: World, steps: tuple[int, ...], stop_after: int = 0) -> dict[str, Any]:
    """The gradients of rank 1 are a thousand times too large at some steps; the shards as each step found them."""
    module = sharded(folder / "base", world, "fp32")
    parameters = list(module.parameters())  # after an evaluation the module shows whole ones
    now = [0]
    shards: dict[int, list[torch.Tensor]] = {}

    class Watched(Tampered):
        def rows(self, numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
            now[0] = numbers[0] // RECIPE.sequences + 1
            shards[now[0]] = [p.to_local().detach().clone() for p in parameters]
            if now[0] == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().rows(numbers)

    def enlarge(_: Any, __: Any, output: Any) -> None:
        if world.rank == 1 and now[0] in steps and torch.is_grad_enabled():
            output.register_hook(lambda gradient: gradient * 1000)

    blocks(module.model)[0].mlp.register_forward_hook(enlarge)
    found = _go(folder, name, world, Watched(folder), module=module)
    return found | {
        "unchanged": [a for a in shards if a + 1 in shards and all(map(torch.equal, shards[a], shards[a + 1]))]
    }


def _on_both_ranks(rank: int, size: int, folder: Path) -> dict[str, Any]:
    signals.install()
    found: dict[str, Any] = {}
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        found["straight"] = _go(folder, "straight", world)
        ask = (lambda: os.kill(os.getpid(), signal.SIGTERM)) if rank == 1 else (lambda: None)
        found["stopped"] = _go(folder, "resumed", world, Tampered(folder, 3, ask))
        if rank == 0:
            for name in ("one rank", "torn"):
                shutil.copytree(folder / "resumed", folder / name)
        found["refused"] = _go(folder, "resumed", world, inputs={**INPUTS, "data": "other"})
        found["resumed"] = _go(folder, "resumed", world)
        found["rows straight"] = _go(folder, "rows straight", world, recipe=ROWS)
        for stop in (2, 4):  # in the steps in which only new rows move, and behind them
            ask = (lambda: os.kill(os.getpid(), signal.SIGTERM)) if rank == 1 else (lambda: None)
            found[f"rows stopped {stop}"] = _go(folder, "rows resumed", world, Tampered(folder, stop, ask), recipe=ROWS)
        found["rows resumed"] = _go(folder, "rows resumed", world, recipe=ROWS)
        train_steps.LEAST, train_steps.MOST = 3, 2
        found["spike"] = _spikes(folder, "spike", world, (5,))
        found["spike stopped"] = _spikes(folder, "spike resumed", world, (5,), stop_after=4)
        found["spike resumed"] = _spikes(folder, "spike resumed", world, (5,))
        found["spikes stopped"] = _spikes(folder, "spikes", world, (4, 5), stop_after=4)
        found["spikes"] = _spikes(folder, "spikes", world, (4, 5))
        train_steps.LEAST, train_steps.MOST = 16, 5
        for name in ("weight", "gradient"):
            found["nan " + name] = _not_finite(folder, name, world)
        module = sharded(folder / "base", world, "fp32")
        found["evaluated"] = evaluate(module, _valid(), world)
        found["training"] = module.training
        found["nats"] = token_nats(module, _valid()["target"][1], world)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    make_model(VOCAB).save_pretrained(folder / "base")
    write_text(folder, 10, starts=(0,))
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_ranks(2, _on_both_ranks, folder)


@pytest.fixture
def world(ranks: Any) -> Iterator[World]:
    """This process alone, after the two ranks did their part."""
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def _curve(folder: Path, name: str) -> list[tuple[float, ...]]:
    rows = {row["step"]: row for row in _rows(folder, name) if row["step"]}  # one that is evaluated later comes twice
    return [(row["step"], row["tokens"], row["loss"], row["grad_norm"], row["lr"]) for row in rows.values()]


def _checkpoints(folder: Path, name: str) -> list[str]:
    return sorted(path.name for path in (folder / name / "train").iterdir())


def test_an_undisturbed_run_logs_evaluates_and_keeps_the_newest(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert [r["straight"]["error"] for r in ranks] == [None, None]
    rows = _rows(folder, "straight")
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "valid" in row] == [0, 3, 6]
    assert [row["tokens"] for row in rows] == [step * RECIPE.sequences * LENGTH for step in range(7)]
    assert all(math.isfinite(row["loss"]) and row["tokens_per_second"] > 0 for row in rows[1:])
    assert rows[-1]["valid"]["target_bpb"] != rows[0]["valid"]["target_bpb"]
    assert [row["lr"] for row in rows[1:]] == pytest.approx([RECIPE.lr * rate_factor(s, RECIPE) for s in range(6)])
    assert _checkpoints(folder, "straight") == ["LATEST", "step-0000000004", "step-0000000006"]
    summary = ranks[0]["straight"]["summary"]
    assert [row["targets"] for row in rows[1:]] == [RECIPE.sequences * (LENGTH - 1)] * 6
    assert summary["skipped"] == 0 and not any(row["skipped"] for row in rows[1:])
    assert summary["tokens"] == 384 and summary["ranks"] == 2 and summary["peak_mb"] > 100
    assert len(summary["probe"]["nats"]["target"]) == 8 - 2


def test_a_signal_to_one_rank_stops_both_after_the_step_they_are_in(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert ranks[1]["stopped"]["error"].startswith("StoppedError: stopped by SIGTERM after step 3, saved at step 3")
    assert "a signal to another rank after step 3" in ranks[0]["stopped"]["error"]
    assert [row["step"] for row in _rows(folder, "one rank")] == [0, 1, 2, 3]
    assert "step-0000000003" in _checkpoints(folder, "one rank")


def test_resuming_at_the_same_number_of_ranks_is_bit_identical(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert _curve(folder, "resumed") == _curve(folder, "straight")
    for found in ranks:
        assert found["resumed"]["error"] is None
        for name, value in found["straight"]["weights"].items():
            assert np.array_equal(found["resumed"]["weights"][name], value), name
    assert ranks[0]["resumed"]["summary"]["probe"] == ranks[0]["straight"]["summary"]["probe"]


def test_resuming_at_another_number_of_ranks_differs_by_rounding(
    folder: Path, ranks: list[dict[str, Any]], world: World
) -> None:
    found = _go(folder, "one rank", world)
    assert found["error"] is None
    np.testing.assert_allclose(_curve(folder, "one rank"), _curve(folder, "straight"), rtol=1e-6, atol=1e-6)
    for name, value in ranks[0]["straight"]["weights"].items():
        np.testing.assert_allclose(found["weights"][name], value, atol=5e-6, err_msg=name)


def test_resuming_across_the_end_of_the_steps_of_new_rows_is_bit_identical(
    folder: Path, ranks: list[dict[str, Any]]
) -> None:
    assert "after step 2, saved at step 2" in ranks[1]["rows stopped 2"]["error"]
    assert "after step 4, saved at step 4" in ranks[1]["rows stopped 4"]["error"]
    assert _curve(folder, "rows resumed") == _curve(folder, "rows straight")
    assert [row["lr"] > 0 for row in _rows(folder, "rows straight")[1:]] == [False] * 3 + [True] * 3
    assert all(row["rows_lr"] > 0 for row in _rows(folder, "rows straight")[1:])
    for found in ranks:
        for name, value in found["rows straight"]["weights"].items():
            assert np.array_equal(found["rows resumed"]["weights"][name], value), name


def test_a_spike_on_one_rank_is_skipped_on_all_and_counted(folder: Path, ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["spike"]["error"] is None
        assert found["spike"]["unchanged"] == [5]
    assert [row["skipped"] for row in _rows(folder, "spike")[1:]] == [0, 0, 0, 0, 1, 0]
    assert ranks[0]["spike"]["summary"]["skipped"] == 1
    assert _curve(folder, "spike")[:4] == _curve(folder, "straight")[:4]


def test_a_resumed_run_knows_the_norms_before_it(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert "after step 4" in ranks[0]["spike stopped"]["error"]
    assert _curve(folder, "spike resumed") == _curve(folder, "spike")
    assert [row["skipped"] for row in _rows(folder, "spike resumed")[1:]] == [0, 0, 0, 0, 1, 0]
    for name, value in ranks[0]["spike"]["weights"].items():
        assert np.array_equal(ranks[0]["spike resumed"]["weights"][name], value), name


def test_spikes_in_a_row_stop_all_ranks_also_across_a_restart(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "after step 4" in found["spikes stopped"]["error"]
        assert found["spikes"]["error"].startswith("NumericError: step 5: gradient norm")
        assert "lower train.lr" in found["spikes"]["error"]


def test_a_changed_recipe_is_refused_on_both_ranks(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["refused"]["error"].startswith("RecipeError:")
        assert 'other inputs (data: "d" -> "other"); start again with --redo train' in found["refused"]["error"]


@pytest.mark.parametrize("name", ["weight", "gradient"])
def test_nan_on_one_rank_stops_all_before_the_update(folder: Path, ranks: list[dict[str, Any]], name: str) -> None:
    for found in (rank["nan " + name] for rank in ranks):
        assert found["error"].startswith("NumericError: step 5: loss")
        assert "no update was made" in found["error"]
        assert found["unchanged"]
    assert _checkpoints(folder, "nan-" + name) == ["LATEST", "step-0000000002", "step-0000000004"]
    assert checkpoint.latest(folder / ("nan-" + name) / "train", INPUTS) is not None
    assert [row["step"] for row in _rows(folder, "nan-" + name)] == [0, 1, 2, 3, 4]


def test_two_ranks_evaluate_as_one_does(folder: Path, ranks: list[dict[str, Any]]) -> None:
    module = LanguageModelLoss(load_whole(folder / "base"))
    for found in ranks:
        assert found["training"]
        for name, batches in _valid().items():
            assert found["evaluated"][f"{name}_bpb"] == pytest.approx(score(module, batches).bits_per_byte, abs=1e-4)
        batch = _valid()["target"][1]
        with torch.no_grad():
            nats = module(batch.inputs, batch.labels, batch.positions, each=True)
        assert found["nats"] == pytest.approx(nats.tolist(), abs=1e-5)


def test_a_damaged_last_checkpoint_costs_its_steps_and_no_more(
    folder: Path, ranks: list[dict[str, Any]], world: World, capsys: Any
) -> None:
    shutil.copytree(folder / "straight", folder / "damaged")
    path = folder / "damaged" / "train" / "step-0000000006" / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = _go(folder, "damaged", world)
    said = capsys.readouterr().out
    assert "damaged" in said and "an older checkpoint is tried" in said and "continues after step 4" in said
    assert found["error"] is None, "the damaged folder must not be in the way of the new checkpoint"
    assert checkpoint.latest(folder / "damaged" / "train", INPUTS) == folder / "damaged" / "train" / "step-0000000006"
    for name, value in ranks[0]["straight"]["weights"].items():
        np.testing.assert_allclose(found["weights"][name], value, atol=5e-6, err_msg=name)


def test_a_torn_line_of_the_metrics_does_not_stop_a_run(folder: Path, world: World) -> None:
    with (folder / "torn" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tok')
    found = _go(folder, "torn", world)
    assert found["error"] is None and found["summary"]["tokens"] == 384


def test_what_a_killed_save_left_is_swept_when_training_goes_on(folder: Path, world: World) -> None:
    shutil.copytree(folder / "straight", folder / "swept")
    rest = folder / "swept" / "train" / ".tmp-step-0000000005-deadbeef"
    rest.mkdir()
    assert _go(folder, "swept", world)["error"] is None
    assert not rest.exists()


def test_a_finished_run_makes_no_step(folder: Path, ranks: list[dict[str, Any]], world: World) -> None:
    shutil.copytree(folder / "straight", folder / "again")
    found = _go(folder, "again", world)
    assert found["error"] is None
    assert _rows(folder, "again") == _rows(folder, "straight")
    assert found["summary"]["probe"]["nats"]["target"] == pytest.approx(
        ranks[0]["straight"]["summary"]["probe"]["nats"]["target"], abs=1e-4
    )
