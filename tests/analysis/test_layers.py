"""`prealign layers` on a model of which it is known which layers were trained: only they matter."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prealign_cpt.analysis.groups import drawn_anew, groups_of, put_back
from prealign_cpt.cli import main
from prealign_cpt.model.load import blocks, load_whole
from prealign_cpt.run.manifest import new_folder, verify
from tests.conftest import make_model

FIRST_NEW = 50


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_in_one_group(tied: bool) -> None:
    model = make_model(60, tied=tied, layers=7)
    groups = groups_of(model, FIRST_NEW)
    blocks_there = ["blocks 1-3", "blocks 4-6", "block 7"]
    assert list(groups) == ["new rows", "old rows", *blocks_there, *([] if tied else ["head"])]
    assert sum(part.of(model).numel() for parts in groups.values() for part in parts) == model.num_parameters()
    assert "model.norm.weight" in [part.name for part in groups["block 7"]]
    assert next(iter(groups_of(model, None))) == "old rows"


@pytest.mark.parametrize("tied", [True, False])
def test_a_group_is_put_back_and_restored(tmp_path: Path, tied: bool) -> None:
    start = make_model(60, tied=tied)
    start.save_pretrained(tmp_path)
    model = make_model(60, tied=tied)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    trained, began = _state(model), _state(start)
    groups = groups_of(model, FIRST_NEW)
    for parts in groups.values():
        for factor in (0.0, 0.5, 1.0):
            with put_back(model, parts, tmp_path, factor):
                now = _state(model)
                for part in parts:
                    rows = slice(part.first, part.last)
                    expected = began[part.name] + factor * (trained[part.name] - began[part.name])
                    assert torch.allclose(now[part.name][rows], expected[rows], atol=1e-6)
                    assert factor or torch.equal(now[part.name][rows], began[part.name][rows])
            assert not _changed(_state(model), trained)
    with put_back(model, groups["new rows"], tmp_path):
        table = model.get_input_embeddings().weight
        assert torch.equal(table[:FIRST_NEW], trained["model.embed_tokens.weight"][:FIRST_NEW])
    with put_back(model, [part for parts in groups.values() for part in parts], tmp_path):
        assert not _changed(_state(model), began)


def test_random_weights_are_those_of_the_architecture(tmp_path: Path) -> None:
    make_model(60, spread=0.02).save_pretrained(tmp_path)
    model = load_whole(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(5.0)
    trained, groups = _state(model), groups_of(model, FIRST_NEW)
    with drawn_anew(model, groups["block 1"], seed=3):
        once = _state(model)
        assert float(once["model.layers.0.mlp.up_proj.weight"].std()) == pytest.approx(0.02, rel=0.1)
        assert (once["model.layers.0.input_layernorm.weight"] == 1).all()
    assert _changed(once, trained) == {part.name for part in groups["block 1"]}
    assert not _changed(_state(model), trained)
    with drawn_anew(model, groups["block 1"], seed=3):
        assert not _changed(_state(model), once)
    with drawn_anew(model, groups["new rows"], seed=3):
        table = model.get_input_embeddings().weight
        assert torch.equal(table[:FIRST_NEW], trained["model.embed_tokens.weight"][:FIRST_NEW])
        assert float(table[FIRST_NEW:].detach().abs().max()) < 0.2
    assert not _changed(_state(model), trained)


def test_the_only_block_that_was_trained_is_the_only_one_that_matters(
    clone_run: Path, clone_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    run = Path(shutil.copytree(clone_run, tmp_path / "lab"))
    shutil.rmtree(run / "export")
    model = load_whole(run / "align")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in blocks(model)[1].parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    with new_folder(run / "export", {}) as out:
        model.save_pretrained(out)
        for path in (clone_run / "export").glob("*token*"):
            shutil.copy(path, out)
    parallel = tmp_path / "parallel.tsv"
    sides = [(clone_folder / f"{side}.train.txt").read_text().split("\n\n")[:12] for side in ("english", "target")]
    rows = zip(*([text.replace("\n", " ") for text in side] for side in sides), strict=True)
    parallel.write_text("".join(f"{one}\t{other}\n" for one, other in rows))
    assert main(["layers", str(run), "--parallel", str(parallel), "--max-bytes", "1000", "--max-items", "50"]) == 0
    told = capsys.readouterr().out
    content = json.loads((run / "layers" / "layers.json").read_text())
    trained, start, groups = content["trained"], content["start"], content["groups"]
    assert list(groups) == ["new rows", "old rows", "block 1", "block 2"] and content["absent"] == {}
    for name in ("new rows", "old rows", "block 1"):
        assert groups[name]["0"] == groups[name]["0.5"] == trained, name
        assert groups[name]["random"] != trained, name
    assert groups["block 2"]["0"] == start != trained
    assert groups["block 2"]["0.5"] not in (start, trained)
    assert "block 2 cost" not in content["reading"] or start["target_bpb"] > trained["target_bpb"]
    assert content["reading"] in told and "| block 2, put back |" in told
    layers = content["alike"]["layers"]
    assert [round(row["target_cka"], 6) == 1.0 for row in layers] == [True, True, False]
    assert [round(row["english_anc"], 6) == 1.0 for row in layers] == [True, True, False]
    assert abs(layers[2]["target_cka"]) < 1 and layers[1]["languages_cka"] == layers[1]["languages_start_cka"]
    verify(run / "export")


def test_a_run_without_an_export(clone_run: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copy(clone_run / "recipe.toml", tmp_path / "recipe.toml")
    assert main(["layers", str(tmp_path)]) == 66
    assert "prealign export" in (told := capsys.readouterr().err) and told.count("\n") == 1
