"""The exported folder as a whole: what lies in it, who may read it, and how text and documents begin and end in it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from prealign_cpt.model.world import World
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.serving.folder import check_servable
from tests.conftest import START, make_model
from tests.export.conftest import export, trained
from tests.vocab.conftest import sentence_piece


@pytest.fixture(scope="module")
def base(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(base_folder, tmp_path_factory.mktemp("licensed") / "base"))
    (folder / "LICENSE").write_text("MIT License\n")
    (folder / "USE_POLICY.md").write_text("be kind\n")
    return folder


def test_the_folder(recipe_file: Path, base: Path, world: World, tmp_path: Path) -> None:
    align = Path(shutil.copytree(base, tmp_path / "align"))
    (align / "LICENSE").unlink()
    mask = os.umask(0o022)
    try:
        out = export(
            load_recipe(recipe_file, ["--base.model", str(base)]),
            align,
            *trained(load_recipe(recipe_file, ["--base.model", str(base)]), align, world),
        )
    finally:
        os.umask(mask)
    names = {path.name for path in out.iterdir()} - {"MANIFEST.json"}
    assert names == {
        "LICENSE", "README.md", "USE_POLICY.md", "config.json", "generation_config.json", "model.safetensors",
        "parity.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert {oct(path.stat().st_mode & 0o777) for path in out.iterdir()} == {"0o644"}
    for path in out.glob("*.json"):
        content = path.read_text()
        assert str(tmp_path) not in content and str(base) not in content, path.name
        assert '"is_local"' not in content and '"local_files_only"' not in content, path.name
    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert "license: mit" in (out / "README.md").read_text()
    check_servable(out, None)


def test_a_document_s_end_stops_generation(recipe_file: Path, base: Path, world: World, tmp_path: Path) -> None:
    """The base's files name another end than its training text has, as SmolLM2's do."""
    align = Path(shutil.copytree(base, tmp_path / "align"))
    tokenizer = AutoTokenizer.from_pretrained(align)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    tokenizer.save_pretrained(align)
    model = make_model(len(tokenizer))
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(align)
    out = export(
        load_recipe(recipe_file, ["--base.end_token", START]),
        align,
        *trained(load_recipe(recipe_file, ["--base.end_token", START]), align, world),
    )
    exported = AutoTokenizer.from_pretrained(out)
    assert GenerationConfig.from_pretrained(out).eos_token_id == [tokenizer.eos_token_id, 0]
    assert (exported.bos_token, exported.bos_token_id, exported.eos_token) == (START, 0, "<|im_end|>")
    assert exported.encode("A dog")[0] == 0 and exported.encode("A dog")[1:] == tokenizer.encode("A dog")
    served = AutoModelForCausalLM.from_pretrained(out)
    for end in (0, tokenizer.eos_token_id):
        ids = torch.tensor([exported.encode("A dog")])
        written = served.generate(ids, max_new_tokens=9, sequence_bias={(end,): 1e4})[0, ids.shape[1] :]
        assert written.tolist() == [end]


def test_a_sentencepiece_base_keeps_its_model_file(recipe_file: Path, world: World, tmp_path: Path) -> None:
    base = sentence_piece(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    make_model(len(tokenizer)).save_pretrained(base)
    align = tmp_path / "align"
    make_model(len(tokenizer)).save_pretrained(align)
    tokenizer.save_pretrained(align)
    (tmp_path / "vocab").mkdir()
    shutil.copy(base / "tokenizer.model", tmp_path / "vocab")
    recipe = load_recipe(recipe_file, ["--base.model", str(base), "--base.start_token", "<s>"])
    out = export(recipe, align, *trained(recipe, align, world))
    assert (out / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    assert GenerationConfig.from_pretrained(out).eos_token_id == [0, 2, 1], "the config's, </s>, <s>"
