"""The export is refused, and nothing is published, when the reloaded model is not the trained one."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.export import Probe, build_export
from prealign_cpt.export.gate import Comparison, check_weights, compare
from prealign_cpt.model.bits import held_out
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError, NumericError
from prealign_cpt.run.manifest import new_folder, verify
from prealign_cpt.train import checkpoint
from prealign_cpt.train.loop import token_nats
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from tests.conftest import ENGLISH, TARGET, make_model


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


def _trained(recipe: Recipe, align: Path, world: World, precision: Any = "fp32") -> tuple[Path, Probe]:
    """A checkpoint of changed weights, and the trainer's own figures for it."""
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    module = sharded(align, world, precision)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            local = parameter.to_local()
            local += 0.02 * torch.randn(local.shape, generator=generator)
    folder = align.parent / "cpt"
    folder.mkdir()
    optimizer = make_optimizer(module, recipe.train)
    step = checkpoint.write(folder, 6, checkpoint.snapshot(module, optimizer), {"inputs": {}}, world)
    nats = {name: token_nats(module, b[0], world) for name, b in held_out(recipe, "valid", tokenizer).items()}
    return step, Probe(nats, "cpu", torch.get_num_threads())


def _export(recipe: Recipe, align: Path, step: Path, probe: Probe, accept: bool = False) -> Path:
    target = align.parent / "export"
    with new_folder(target, {}) as out:
        build_export(recipe, align, step, probe, out, accept)
    return target


def test_the_export_gives_the_trainer_s_figures(recipe: Recipe, align: Path, world: World) -> None:
    step, probe = _trained(recipe, align, world)
    export = _export(recipe, align, step, probe)
    verify(export)
    parity = json.loads((export / "parity.json").read_text())
    assert parity["tokens"] == sum(map(len, probe.nats.values()))
    assert parity["mean"] < 1e-5 and parity["faults"] == [] and parity["accepted"] is False
    old = AutoModelForCausalLM.from_pretrained(align).lm_head.weight
    new = AutoModelForCausalLM.from_pretrained(export).lm_head.weight
    assert not torch.equal(old, new), "the export must hold the trained weights"


def test_bf16_is_exported_as_bf16(recipe_file: Path, align: Path, world: World) -> None:
    recipe = load_recipe(recipe_file, ["--train.precision", "bf16"])
    export = _export(recipe, align, *_trained(recipe, align, world, "bf16"))
    assert AutoModelForCausalLM.from_pretrained(export).dtype == torch.bfloat16
    parity = json.loads((export / "parity.json").read_text())
    assert parity["mean"] <= parity["mean_bound"] and parity["rounding"] > 0


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
def test_other_figures_are_refused_and_kept_aside(recipe: Recipe, align: Path, world: World, tamper: Any) -> None:
    step, probe = _trained(recipe, align, world)
    probe.nats["english"] = tamper(probe.nats["english"])
    rejected = recipe.run / "export.rejected"
    recipe.run.mkdir(parents=True)
    with pytest.raises(NumericError, match=r"differs from the trained one by .*nats.*kept as .*--accept export"):
        _export(recipe, align, step, probe)
    assert not (align.parent / "export").exists() and not list(align.parent.glob(".tmp-*"))
    assert (rejected / "model.safetensors").is_file()
    assert json.loads((rejected / "parity.json").read_text())["faults"]
    export = _export(recipe, align, step, probe, accept=True)
    assert json.loads((export / "parity.json").read_text())["accepted"] is True
    assert not rejected.exists()


def test_weights_that_are_not_those_of_the_probe_are_refused(recipe: Recipe, align: Path, world: World) -> None:
    step, probe = _trained(recipe, align, world)
    shutil.rmtree(align.parent / "cpt")
    model = AutoModelForCausalLM.from_pretrained(align)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
    model.save_pretrained(align)
    step, _ = _trained(recipe, align, world)
    recipe.run.mkdir(parents=True)
    with pytest.raises(NumericError, match="differs from the trained one"):
        _export(recipe, align, step, probe)


def test_one_bit_of_one_weight_is_found(recipe: Recipe, align: Path, world: World) -> None:
    export = _export(recipe, align, *_trained(recipe, align, world))
    masters = AutoModelForCausalLM.from_pretrained(export).state_dict()
    assert check_weights(export, masters, torch.float32) == len(masters) - 1, "the tied head is written once"
    bits = masters["model.layers.1.mlp.up_proj.weight"].view(torch.int32)
    bits[3, 5] ^= 1
    with pytest.raises(DataError, match=r"model.layers.1.mlp.up_proj.weight is not what was trained"):
        check_weights(export, masters, torch.float32)


def test_a_tensor_that_was_not_written_is_found(recipe: Recipe, align: Path, world: World) -> None:
    export = _export(recipe, align, *_trained(recipe, align, world))
    masters = AutoModelForCausalLM.from_pretrained(export).state_dict()
    masters["model.extra.weight"] = torch.zeros(3)
    with pytest.raises(DataError, match=r"model.extra.weight was not written"):
        check_weights(export, masters, torch.float32)


def test_more_rows_than_tokens_are_refused(recipe: Recipe, align: Path, world: World) -> None:
    make_model(432).save_pretrained(align)
    step, probe = _trained(recipe, align, world)
    with pytest.raises(DataError, match="432 rows, 420 tokens"):
        _export(recipe, align, step, probe)
    assert not list(align.parent.glob("*export*"))


class TestDeepModels:
    """Thirty layers in bf16, where two correct programs differ by hundredths of a nat per token.

    The trainer's part is played by the same weights whose products are added up in two blocks, each rounded, as other
    kernels do: on every processor sums are then rounded otherwise.
    """

    OLD_MEAN_LIMIT = 0.02
    """A limit that the gate once had, and that a correct model of this depth does not keep."""

    @pytest.fixture(scope="class")
    def deep(self, tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
        folder = tmp_path_factory.mktemp("deep") / "model"
        shutil.copytree(base_folder, folder)
        model = make_model(420, layers=30, hidden=64, spread=0.06)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(8.0)
        model.to(torch.bfloat16).save_pretrained(folder)
        return folder

    @staticmethod
    def _in_blocks(model: Any) -> Any:
        for linear in (module for module in model.modules() if isinstance(module, torch.nn.Linear)):
            half = linear.in_features // 2
            linear.forward = lambda x, w=linear.weight, half=half: (
                x[..., :half] @ w[:, :half].T + x[..., half:] @ w[:, half:].T
            )
        return model

    def _compare(self, recipe_file: Path, deep: Path, change: Any, threads: int) -> Comparison:
        flags = ["--train.precision", "bf16", "--evaluate.window_bytes", "512"]
        for name, texts in (("target", TARGET), ("english", ENGLISH)):
            words = " ".join(texts).split() * 4
            random.Random(0).shuffle(words)  # repeated text would round alike each time
            (recipe_file.parent / f"valid_{name}.txt").write_text(" ".join(words), encoding="utf-8")
        recipe = load_recipe(recipe_file, flags)
        model = AutoModelForCausalLM.from_pretrained(deep, dtype=torch.bfloat16)
        module = LanguageModelLoss(change(self._in_blocks(model)).eval())
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        tokenizer = AutoTokenizer.from_pretrained(deep)
        nats = {}
        with torch.no_grad():
            for name, batches in held_out(recipe, "valid", tokenizer).items():
                tensors = batches[0].inputs, batches[0].labels, batches[0].positions
                nats[name] = module(*tensors, each=True).tolist()
        torch.set_num_threads(before)
        return compare(recipe, deep, Probe(nats, "cpu", 3 - threads))

    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_correct_program_that_rounds_otherwise_passes(self, recipe_file: Path, deep: Path, threads: int) -> None:
        found = self._compare(recipe_file, deep, lambda model: model, threads)
        assert found.faults == []
        assert found.mean > self.OLD_MEAN_LIMIT, "this model is too tame to stand for a real one"

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: _with(model, "rope"),
            lambda model: _with(model, "norm"),
            lambda model: _with(model, "head"),
        ],
        ids=["angles", "one norm of sixty", "a hundredth of the head"],
    )
    def test_a_function_that_is_another_is_found(self, recipe_file: Path, deep: Path, change: Any) -> None:
        assert self._compare(recipe_file, deep, change, 1).faults


def _with(model: Any, fault: str) -> Any:
    """A fault that leaves the model sensible."""
    with torch.no_grad():
        if fault == "rope":
            model.model.rotary_emb.inv_freq.mul_(0.5)
        elif fault == "norm":
            model.model.layers[14].input_layernorm.weight.mul_(1.5)
        else:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 1.02)
    return model
