"""`prealign trajectory` on checkpoints made by hand, of which it is known what they have learned, and where."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.analysis.trajectory import derived
from prealign_cpt.cli import main
from prealign_cpt.model.bits import held_out
from prealign_cpt.model.load import blocks, load_whole
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.file import recipe_of
from prealign_cpt.run.manifest import read_manifest
from prealign_cpt.train import checkpoint
from prealign_cpt.train.loop import PROBE_ROWS, probe
from prealign_cpt.train.shard import sharded

HALF = 16
"""Of the hidden size."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


@torch.no_grad()
def turn(model: PreTrainedModel, num_old: int, scale: float) -> None:
    """English words live in the first half of the hidden size, their clones, the same, in the second. Attention looks
    at all tokens alike; in the first block it adds `scale` times the second half to the first, so that words are near
    their clones behind it; in the second block it takes more than that away. There is nothing else."""
    table = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(1)
    table.zero_()
    table[:num_old, :HALF] = torch.randn(num_old, HALF, generator=generator)
    for block in blocks(model):
        for parameter in (block.self_attn.q_proj.weight, block.self_attn.k_proj.weight, block.mlp.down_proj.weight):
            parameter.zero_()
        block.self_attn.v_proj.weight.copy_(torch.cat([torch.zeros(HALF, HALF), torch.eye(HALF)], dim=1))
        block.self_attn.o_proj.weight.zero_()
    for sign, block in zip((1.0, -3.0), blocks(model), strict=True):
        for first, place in ((0, 0), (8, 16)):  # heads 0 and 1 read the first half of the values, 2 and 3 the second
            block.self_attn.o_proj.weight[first : first + 8, place : place + 8] = sign * scale * torch.eye(8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, clone_run: Path, clone_folder: Path, world: World) -> Path:
    """The clone's run, its milestones replaced: at step 4 the first block brings words and clones together."""
    run = Path(shutil.copytree(clone_run, tmp_path_factory.mktemp("by_hand") / "lab"))
    recipe = recipe_of(run)
    tokenizer = AutoTokenizer.from_pretrained(run / "align")
    pieces = json.loads((run / "init" / "pieces.json").read_text())
    clones = _originals(clone_folder)
    for path in sorted((run / "train" / checkpoint.KEPT).iterdir()):
        step, about = checkpoint.step_of(path), read_manifest(path)["about"]
        model = load_whole(run / "align")
        turn(model, len(tokenizer) - len(pieces), 1.0 if step == 4 else 0.0)
        with torch.no_grad():
            table = model.get_input_embeddings().weight
            for new, old in clones.items():
                table[new, HALF:] = table[old, :HALF]
        made = path.with_name("made")
        model.save_pretrained(made)
        module = sharded(made, world, "fp32")
        about = {
            "inputs": about["inputs"],
            "probe": probe(module, held_out(recipe, "valid", tokenizer), world, PROBE_ROWS),
        }
        shutil.rmtree(path)
        shutil.rmtree(made)
        checkpoint.write(path.parent, step, checkpoint.snapshot(module, None), about, world)
    return run


def _originals(clone: Path) -> dict[int, int]:
    """New token to the English one it is the clone of."""
    lines = (clone / "tokens.tsv").read_text(encoding="utf-8").splitlines()
    return {int(new): int(old) for new, old in (line.split("\t")[:2] for line in lines[1:])}


def test_derived_figures_by_hand() -> None:
    by_layer = [[0.1, 0.0, 0.0], [0.1, 0.5, 0.2], [0.2, 0.8, 0.6], [0.4, 0.79, 0.3], [0.6, 0.5, 0.1]]
    assert derived([0, 1, 2, 4, 8], by_layer, lower=False) == {
        "best": 0.8, "best_step": 2, "reached": 2, "forgotten": pytest.approx(0.2),
        "layers": [0, 1, 1, 1, 0], "forgotten_last_layer": pytest.approx(0.5),
    }  # fmt: skip
    bits = derived([0, 1, 2, 4, 8], [3.0, 2.01, 2.0, 1.99, 2.5], lower=True)
    assert bits == {"best": 1.99, "best_step": 4, "reached": 1, "forgotten": pytest.approx(0.51)}
    assert derived([0, 1], [[0.0], [0.0]], lower=False)["reached"] == 0


def test_what_one_block_knew_at_one_step_is_found_there(
    run: Path, clone_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    sides = [
        [line for name in ("valid", "test") for line in (clone_folder / f"{side}.{name}.txt").read_text().splitlines()]
        for side in ("english", "target")
    ]
    parallel = tmp_path / "parallel.tsv"
    parallel.write_text("".join(f"{one}\t{other}\n" for one, other in zip(*sides, strict=True) if one and other))
    before = sorted(path.name for path in run.iterdir())
    command = ["trajectory", str(run), "--parallel", str(parallel), "--max-bytes", "2000"]
    assert main(command) == 0
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("| 4 |"))
    assert sorted(path.name for path in run.iterdir()) == sorted([*before, "trajectory"])
    content = json.loads((run / "trajectory" / "trajectory.json").read_text())
    assert content["steps"] == [0, 1, 2, 4, 8, 9] and content["absent"] == {}
    words = content["series"]["words"]
    assert words["best"] > 0.8 and f"{words['best']:.3f} (1)" in row
    assert words["best_step"] == words["reached"] == 4 and words["layers"][3] == 1
    assert words["values"][3][0] == words["values"][2][1] == words["values"][4][1] == 0.0
    assert words["forgotten"] > 0.5
    for name in ("sentences", "transfer_target"):
        one = content["series"][name]
        assert one["best_step"] == 4 and one["layers"][3] == 1, name
    bits = content["series"]["target_bpb"]
    assert bits["lower"] and bits["best"] == min(bits["values"]) and bits["best_step"] in (0, 9)
    # A second start measures nothing again, and no model is left behind.
    assert main(command) == 0
    told = capsys.readouterr()
    assert told.out.endswith(table[table.index("| step") :])
    assert told.err.count("before, kept") == 4 * 6 and "done," not in told.err
    assert not (run / "trajectory" / "model").exists()


def test_a_run_that_kept_nothing(run: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copy(run / "recipe.toml", tmp_path / "recipe.toml")
    assert main(["trajectory", str(tmp_path)]) == 66
    assert 'train.save_at = "log"' in (told := capsys.readouterr().err) and told.count("\n") == 1
