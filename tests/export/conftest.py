"""What the tests of the export have in common: a trained checkpoint and its export, and a whole run."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from prealign_cpt.cli import main
from prealign_cpt.export import Probe, build_export
from prealign_cpt.model.bits import held_out
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.manifest import new_folder
from prealign_cpt.train import checkpoint
from prealign_cpt.train.adapters import COMPUTED, prepare
from prealign_cpt.train.loop import token_nats
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from tests.conftest import recipe_file


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """Its folder, with everything up to the export; not to be changed."""
    make: Callable[..., Path] = inspect.unwrap(recipe_file)
    path = make(tmp_path_factory.mktemp("kept"), base_folder)
    flags = ["--out", str(path.parent / "runs"), "--train.save_at", "log", "--train.precision", "bf16"]
    assert main(["export", str(path), *flags]) == 0
    return path.parent / "runs" / "tiny"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


def trained(
    recipe: Recipe, align: Path, world: World, precision: Any = "fp32", first_new: int | None = None
) -> tuple[Path, Probe]:
    """A checkpoint of changed weights beside `align`, a milestone too, and the trainer's own figures for them."""
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    module = sharded(
        align, world, precision, prepare=partial(prepare, recipe=recipe.train, first_new=first_new, seed=recipe.seed)
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (p for p in module.parameters() if p.requires_grad):
            local = parameter.to_local()
            local += 0.02 * torch.randn(local.shape, generator=generator)
    folder = align.parent / "train"
    folder.mkdir()
    state = checkpoint.snapshot(module, make_optimizer(module, recipe.train, first_new))
    step = checkpoint.write(folder, 6, state, {"inputs": {}}, world)
    rounded = checkpoint.snapshot(module, None, dtype=COMPUTED[precision])
    checkpoint.write(folder / checkpoint.KEPT, 6, rounded, {"inputs": {}, "dtype": precision}, world)
    nats = {name: token_nats(module, b[0], world) for name, b in held_out(recipe, "valid", tokenizer).items()}
    return step, Probe(nats, "cpu", torch.get_num_threads())


def export(
    recipe: Recipe,
    align: Path,
    step: Path,
    probe: Probe,
    accept: bool = False,
    first_new: int | None = None,
    name: str = "export",
) -> Path:
    target = align.parent / name
    with new_folder(target, {}) as out:
        build_export(recipe, align, step, probe, out, accept, first_new)
    return target
