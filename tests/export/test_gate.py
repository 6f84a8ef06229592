"""The export is refused, and nothing is published, when the reloaded model is not the trained one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.errors import DataError
from prealign_cpt.evaluate.scores import held_out
from prealign_cpt.export import build_export
from prealign_cpt.manifest import new_folder, verify
from prealign_cpt.recipe import Recipe
from prealign_cpt.recipe_file import load_recipe
from prealign_cpt.train import checkpoint
from prealign_cpt.train.loop import token_nats
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import World, process_group, sharded
from tests.conftest import make_model


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture
def align(tmp_path: Path, base_folder: Path) -> Path:
    """What training starts from: here simply the base."""
    shutil.copytree(base_folder, tmp_path / "align")
    return tmp_path / "align"


def _trained(recipe: Recipe, align: Path, world: World, precision: Any = "fp32") -> tuple[Path, dict[str, list[float]]]:
    """A checkpoint of changed weights, and the trainer's own figures for it."""
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    module = sharded(align, world, precision)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            local = parameter.to_local()
            local += 0.02 * torch.randn(local.shape, generator=random)
    folder = align.parent / "cpt"
    folder.mkdir()
    optimizer = make_optimizer(module, recipe.train)
    step = checkpoint.save(folder, 6, module, optimizer, {"inputs": {}}, world)
    probe = {name: token_nats(module, b[0], world) for name, b in held_out(recipe, "valid", tokenizer).items()}
    return step, probe


def _export(recipe: Recipe, align: Path, step: Path, probe: dict[str, list[float]]) -> Path:
    target = align.parent / "export"
    with new_folder(target, {}) as out:
        build_export(recipe, align, step, probe, out)
    return target


def test_the_export_gives_the_trainer_s_figures(recipe: Recipe, align: Path, world: World) -> None:
    step, probe = _trained(recipe, align, world)
    export = _export(recipe, align, step, probe)
    verify(export)
    parity = json.loads((export / "parity.json").read_text())
    assert parity["tokens"] == sum(map(len, probe.values()))
    assert parity["largest_difference"] < 1e-5
    old = AutoModelForCausalLM.from_pretrained(align).lm_head.weight
    new = AutoModelForCausalLM.from_pretrained(export).lm_head.weight
    assert not torch.equal(old, new), "the export must hold the trained weights"


def test_bf16_is_exported_as_bf16(recipe_file: Path, align: Path, world: World) -> None:
    recipe = load_recipe(recipe_file, ["--train.precision", "bf16"])
    export = _export(recipe, align, *_trained(recipe, align, world, "bf16"))
    assert AutoModelForCausalLM.from_pretrained(export).dtype == torch.bfloat16
    assert json.loads((export / "parity.json").read_text())["mean_difference"] < 0.02


def test_an_untied_head_is_exported(recipe: Recipe, align: Path, world: World) -> None:
    make_model(420, tied=False).save_pretrained(align)
    export = _export(recipe, align, *_trained(recipe, align, world))
    model = AutoModelForCausalLM.from_pretrained(export)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize(
    "tamper",
    [lambda x: [*x[:-1], x[-1] + 0.01], lambda x: [v + 0.001 for v in x], lambda x: [float("nan"), *x[1:]]],
    ids=["one token", "all tokens", "nan"],
)
def test_other_figures_are_refused(recipe: Recipe, align: Path, world: World, tamper: Any) -> None:
    step, probe = _trained(recipe, align, world)
    probe["english"] = tamper(probe["english"])
    with pytest.raises(DataError, match=r"differs from the trained one .* the export is discarded"):
        _export(recipe, align, step, probe)
    assert not (align.parent / "export").exists()
    assert not list(align.parent.glob(".tmp-*"))


def test_weights_that_are_not_those_of_the_probe_are_refused(recipe: Recipe, align: Path, world: World) -> None:
    step, probe = _trained(recipe, align, world)
    shutil.rmtree(align.parent / "cpt")
    model = AutoModelForCausalLM.from_pretrained(align)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
    model.save_pretrained(align)
    step, _ = _trained(recipe, align, world)
    with pytest.raises(DataError, match="differs from the trained one"):
        _export(recipe, align, step, probe)


def test_more_rows_than_tokens_are_refused(recipe: Recipe, align: Path, world: World) -> None:
    make_model(432).save_pretrained(align)
    step, probe = _trained(recipe, align, world)
    with pytest.raises(DataError, match="432 rows, 420 tokens"):
        _export(recipe, align, step, probe)
    assert not list(align.parent.glob("*export*"))
