"""Whatever method trained it, the export is one dense folder with the trainer's function."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prealign_cpt.model.world import World
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.train import adapters
from tests.conftest import make_model
from tests.export.conftest import export, trained

FIRST_NEW = 400
METHODS = ["rows", "lora", "qlora"]


@pytest.fixture
def align(tmp_path: Path, base_folder: Path) -> Path:
    shutil.copytree(base_folder, tmp_path / "align")
    make_model(420, tied=False).save_pretrained(tmp_path / "align")
    return tmp_path / "align"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_the_merged_folder_passes_the_gate(
    recipe_file: Path, align: Path, world: World, method: str, precision: str
) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    recipe = load_recipe(recipe_file, ["--train.method", method, "--train.precision", precision])
    step, probe = trained(recipe, align, world, precision, FIRST_NEW)
    exported = export(recipe, align, step, probe, first_new=FIRST_NEW)
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["faults"] == []
    base, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (align, exported))
    expected = {name: value.to(model.dtype) for name, value in base.state_dict().items()}
    assert model.state_dict().keys() == expected.keys()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])}
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert moved == tables | {name for name in expected if "_proj" in name and method != "rows"}
    for name in tables:
        assert torch.equal(model.state_dict()[name][:FIRST_NEW], expected[name][:FIRST_NEW])


@pytest.mark.parametrize("method", ["full", *METHODS])
def test_a_milestone_gives_the_folder_that_the_checkpoint_gives(
    recipe_file: Path, align: Path, world: World, method: str
) -> None:
    """Its weights are rounded before they are merged, as training rounds them."""
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    recipe = load_recipe(recipe_file, ["--train.method", method, "--train.precision", "bf16"])
    step, probe = trained(recipe, align, world, "bf16", FIRST_NEW)
    milestone = step.parent / "kept" / step.name
    size, full_size = (sum(p.stat().st_size for p in folder.glob("*.distcp")) for folder in (milestone, step))
    assert size < full_size / 2
    for folder, name in ((step, "export"), (milestone, "of_milestone")):
        export(recipe, align, folder, probe, first_new=FIRST_NEW, name=name)
    same = [(align.parent / name / "model.safetensors").read_bytes() for name in ("export", "of_milestone")]
    assert same[0] == same[1]


def test_adapters_that_are_left_out_are_noticed(
    recipe_file: Path, align: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_file, ["--train.method", "lora"])
    step, probe = trained(recipe, align, world, "fp32", FIRST_NEW)
    merged = adapters.AdaptedLinear.merged

    def bare(self: adapters.AdaptedLinear, computed: torch.dtype) -> torch.nn.Linear:
        self.scale = 0.0
        return merged(self, computed)

    monkeypatch.setattr(adapters.AdaptedLinear, "merged", bare)
    recipe.run.mkdir(parents=True)
    with pytest.raises(NumericError, match="differs from the trained one"):
        export(recipe, align, step, probe, first_new=FIRST_NEW)
