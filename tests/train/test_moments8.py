"""8-bit moments: bitsandbytes' own optimizer to the bit, on one rank and on two, and through a checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train import optim
from prealign_cpt.train.optim import AdamW, make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import make_model, run_ranks
from tests.train.conftest import VOCAB, full, mixture, weights, write_text

HIDDEN, FIRST_NEW = 256, 41
RECIPE = Train(
    steps=6, sequences=6, micro_batch=3, lr=1e-3, rows_lr=3e-3, warmup=0.0, decay=0.0, weight_decay=0.1,
    optimizer="adamw8bit", precision="fp32", eval_every=9, save_every=9,
)  # fmt: skip

pytest.importorskip("bitsandbytes")


def states(module: nn.Module, optimizer: AdamW) -> dict[tuple[str, str], np.ndarray]:
    names = {id(p): n for n, p in module.named_parameters()}
    return {(names[id(p)], k): full(v) for p, state in optimizer.state.items() for k, v in state.items()}


def steps(module: LanguageModelLoss, optimizer: AdamW, folder: Path, which: range, world: World, kind: Train) -> None:
    for step in which:
        train_step(module, optimizer, mixture(folder), step, kind, 0, world, SpikeGuard())


def work(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Three steps, a checkpoint, three more; and the same from the checkpoint."""
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        return go(folder, world, save=size == 2)


def go(folder: Path, world: World, save: bool) -> dict[str, Any]:
    module = sharded(folder / "base", world, "fp32")
    optimizer = make_optimizer(module, RECIPE, FIRST_NEW)
    found: dict[str, Any] = {}
    if save:
        steps(module, optimizer, folder, range(3), world, RECIPE)
        model_state, optimizer_state = get_state_dict(module, optimizer)
        dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / "saved")
        found["saved"] = states(module, optimizer)
        steps(module, optimizer, folder, range(3, 6), world, RECIPE)
        found["straight"] = weights(module)
        module = sharded(folder / "base", world, "fp32")
        optimizer = make_optimizer(module, RECIPE, FIRST_NEW)
    model_state, optimizer_state = get_state_dict(module, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=folder / "saved")
    set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    found["loaded"] = states(module, optimizer)
    steps(module, optimizer, folder, range(3, 6), world, RECIPE)
    found["resumed"] = weights(module)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moments")
    make_model(VOCAB, hidden=HIDDEN, layers=1, spread=0.05).save_pretrained(folder / "base")
    write_text(folder, 40)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_ranks(2, work, folder)


@pytest.fixture(scope="module")
def alone(folder: Path, ranks: Any) -> dict[str, Any]:
    """One rank, from the checkpoint of two."""
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        return go(folder, world, save=False)


def test_it_is_the_update_of_bitsandbytes() -> None:
    import bitsandbytes

    start = torch.linspace(-1, 1, 16 * 512).view(16, 512)
    mine, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizer = AdamW([{"params": [mine], "weight_decay": 0.1, "bits": 8}])
    expected = bitsandbytes.optim.AdamW8bit([theirs], betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(4)
    for rate in (1e-2, 3e-2, 2e-2, 1e-2, 1e-2):
        mine.grad = torch.randn(16, 512, generator=generator)
        theirs.grad = mine.grad.clone()
        expected.param_groups[0]["lr"] = rate
        optimizer.set_rates(rate, rate)
        optimizer.step()
        expected.step()
        assert torch.equal(mine, theirs)
    assert torch.equal(optimizer.state[mine]["exp_avg"], expected.state[theirs]["state1"])
    assert optimizer.state[mine]["exp_avg"].dtype == torch.uint8


def test_a_rate_of_zero_leaves_weights_and_moments(ranks: Any) -> None:
    parameter = nn.Parameter(torch.ones(16, 256))
    optimizer = AdamW([{"params": [parameter], "weight_decay": 0.1, "bits": 8}])
    parameter.grad = torch.ones(16, 256)
    optimizer.set_rates(0.0, 1.0)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(16, 256)) and not optimizer.state[parameter]["exp_avg_scale"].any()


def test_only_the_matrices_of_the_body_are_in_8_bits(ranks: list[dict[str, Any]]) -> None:
    state = ranks[0]["saved"]
    packed = {name for (name, key), value in state.items() if key == "exp_avg" and value.dtype == np.uint8}
    assert packed and all("_proj" in name for name in packed) and len(packed) == 7
    for name, key in state:
        if name not in packed:
            assert state[name, key].dtype == np.float32 and key in ("exp_avg", "exp_avg_sq")
    assert state["model.model.embed_tokens.weight", "exp_avg"].any()


def test_a_checkpoint_resumes_bit_by_bit(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["loaded"].keys() == found["saved"].keys()
        for key, value in found["saved"].items():
            assert found["loaded"][key].dtype == value.dtype and np.array_equal(found["loaded"][key], value), key
        for name, value in found["straight"].items():
            assert np.array_equal(found["resumed"][name], value), name


def test_another_number_of_ranks_reads_the_same_codes(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for key, value in ranks[0]["saved"].items():
        assert np.array_equal(alone["loaded"][key], value), key
    # Gradients differ by rounding, which can move a code to its neighbour: a small part of a step of 1e-3.
    for name, value in ranks[0]["straight"].items():
        np.testing.assert_allclose(alone["resumed"][name], value, atol=3e-4, err_msg=name)


def test_it_stays_near_32_bits(folder: Path, ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    kind = dataclasses.replace(RECIPE, optimizer="adamw")
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        module = sharded(folder / "base", world, "fp32")
        before = weights(module)
        steps(module, make_optimizer(module, kind, FIRST_NEW), folder, range(6), world, kind)
        after = weights(module)
    for name, value in ranks[0]["straight"].items():
        moved = np.abs(after[name] - before[name]).mean()
        assert np.abs(value - after[name]).mean() < 0.2 * moved, name


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'bitsandbytes'")

    monkeypatch.setattr(optim, "_kernels", missing)
    with pytest.raises(
        RecipeError, match=r"train\.optimizer: 'adamw8bit' needs bitsandbytes.*pip install .prealign-cpt\[bnb\]"
    ):
        make_optimizer(LanguageModelLoss(make_model(VOCAB)), RECIPE, FIRST_NEW)


def test_a_model_without_whole_blocks_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"multiple of 256 numbers"):
        make_optimizer(LanguageModelLoss(make_model(VOCAB)), RECIPE, FIRST_NEW)
