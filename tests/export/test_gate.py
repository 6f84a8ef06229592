"""The export is refused, and nothing is published, when the reloaded model is not the trained one."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.export import Probe
from prealign_cpt.export.gate import Comparison, check_weights, compare
from prealign_cpt.model.bits import held_out
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError, NumericError
from prealign_cpt.run.manifest import verify
from tests.conftest import ENGLISH, TARGET, make_model
from tests.export.conftest import export, trained


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file)


@pytest.fixture
def align(tmp_path: Path, base_folder: Path) -> Path:
    """What training starts from: here simply the base."""
    shutil.copytree(base_folder, tmp_path / "align")
    return tmp_path / "align"


def test_the_export_gives_the_trainer_s_figures(recipe: Recipe, align: Path, world: World) -> None:
    step, probe = trained(recipe, align, world)
    exported = export(recipe, align, step, probe)
    verify(exported)
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["tokens"] == sum(map(len, probe.nats.values()))
    assert parity["mean"] < 1e-5 and parity["faults"] == [] and parity["accepted"] is False
    old = AutoModelForCausalLM.from_pretrained(align).lm_head.weight
    new = AutoModelForCausalLM.from_pretrained(exported).lm_head.weight
    assert not torch.equal(old, new), "the export must hold the trained weights"


def test_bf16_is_exported_as_bf16(recipe_file: Path, align: Path, world: World) -> None:
    recipe = load_recipe(recipe_file, ["--train.precision", "bf16"])
    exported = export(recipe, align, *trained(recipe, align, world, "bf16"))
    assert AutoModelForCausalLM.from_pretrained(exported).dtype == torch.bfloat16
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["mean"] <= parity["mean_bound"] and parity["rounding"] > 0


def test_an_untied_head_is_exported(recipe: Recipe, align: Path, world: World) -> None:
    make_model(420, tied=False).save_pretrained(align)
    exported = export(recipe, align, *trained(recipe, align, world))
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize(
    "tamper",
    [lambda x: [*x[:-1], x[-1] + 0.01], lambda x: [v + 0.001 for v in x], lambda x: [float("nan"), *x[1:]]],
    ids=["one token", "all tokens", "nan"],
)
def test_other_figures_are_refused_and_kept_aside(recipe: Recipe, align: Path, world: World, tamper: Any) -> None:
    step, probe = trained(recipe, align, world)
    probe.nats["english"] = tamper(probe.nats["english"])
    rejected = recipe.run / "export.rejected"
    recipe.run.mkdir(parents=True)
    with pytest.raises(NumericError, match=r"differs from the trained one by .*nats.*kept as .*--accept export"):
        export(recipe, align, step, probe)
    assert not (align.parent / "export").exists() and not list(align.parent.glob(".tmp-*"))
    assert (rejected / "model.safetensors").is_file()
    assert json.loads((rejected / "parity.json").read_text())["faults"]
    exported = export(recipe, align, step, probe, accept=True)
    assert json.loads((exported / "parity.json").read_text())["accepted"] is True
    assert not rejected.exists()


def test_weights_that_are_not_those_of_the_probe_are_refused(recipe: Recipe, align: Path, world: World) -> None:
    step, probe = trained(recipe, align, world)
    shutil.rmtree(align.parent / "train")
    model = AutoModelForCausalLM.from_pretrained(align)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
    model.save_pretrained(align)
    step, _ = trained(recipe, align, world)
    recipe.run.mkdir(parents=True)
    with pytest.raises(NumericError, match="differs from the trained one"):
        export(recipe, align, step, probe)


def test_one_bit_of_one_weight_is_found(recipe: Recipe, align: Path, world: World) -> None:
    exported = export(recipe, align, *trained(recipe, align, world))
    masters = AutoModelForCausalLM.from_pretrained(exported).state_dict()
    names = [name for name in masters if name != "lm_head.weight"]  # it is tied, and written once
    check_weights(exported, names, masters.__getitem__, torch.float32)
    bits = masters["model.layers.1.mlp.up_proj.weight"].view(torch.int32)
    bits[3, 5] ^= 1
    with pytest.raises(DataError, match=r"model.layers.1.mlp.up_proj.weight is not what was trained"):
        check_weights(exported, names, masters.__getitem__, torch.float32)


def test_a_tensor_that_was_not_written_is_found(recipe: Recipe, align: Path, world: World) -> None:
    exported = export(recipe, align, *trained(recipe, align, world))
    masters = AutoModelForCausalLM.from_pretrained(exported).state_dict()
    names = [name for name in masters if name != "lm_head.weight"]
    with pytest.raises(DataError, match=r"model.extra.weight was not written"):
        check_weights(exported, [*names, "model.extra.weight"], masters.__getitem__, torch.float32)
    with pytest.raises(DataError, match=r"model.norm.weight is no part of the trained model"):
        names.remove("model.norm.weight")
        check_weights(exported, names, masters.__getitem__, torch.float32)


def test_more_rows_than_tokens_are_refused(recipe: Recipe, align: Path, world: World) -> None:
    make_model(432).save_pretrained(align)
    step, probe = trained(recipe, align, world)
    with pytest.raises(DataError, match="432 rows, 420 tokens"):
        export(recipe, align, step, probe)
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
