"""The export gate across devices: trained on one, checked on both: `python benchmarks/gpu/gate.py [--device cuda]`.

A small model in bf16 goes through every stage up to the export, whose own gate compares on the trainer's device. Then
the folder is compared again on the CPU. Two JSON objects: the figures of `parity.json` for each; "faults" is empty if
it passes.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prealign_cpt.cli import main as prealign
from prealign_cpt.export import gate
from prealign_cpt.recipe.file import load_recipe
from tests.conftest import ENGLISH, PAIRS, START, TARGET, make_model, make_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        path = written(Path(place), options.device)
        assert prealign(["export", str(path)]) == 0, "the gate, or a stage before it, failed"
        recipe = load_recipe(path)
        own = json.loads((recipe.run / "export" / "parity.json").read_text())
        print(json.dumps({"checked_on": options.device} | own), flush=True)
        probe = gate.Probe(**json.loads((recipe.run / "train" / "summary.json").read_text())["probe"])
        other = gate.compare(recipe, recipe.run / "export", replace(probe, device="cpu"))
        print(json.dumps({"checked_on": "cpu", "trained_on": probe.device} | other.figures), flush=True)


def written(folder: Path, device: str) -> Path:
    """A recipe over a few sentences and a model with heads of 64, as flash kernels want them."""
    tokenizer = make_tokenizer(ENGLISH * 4)
    make_model(len(tokenizer), hidden=256, layers=4, spread=0.05).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for name, lines in {"target": TARGET, "english": ENGLISH}.items():
        (folder / f"{name}.txt").write_text("\n\n".join(lines[:4] * 8), encoding="utf-8")
        (folder / f"valid_{name}.txt").write_text(lines[4], encoding="utf-8")
        (folder / f"test_{name}.txt").write_text(lines[4].upper(), encoding="utf-8")
    (folder / "lexicon.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), encoding="utf-8")
    keys = {
        "name": "gate", "language": "German", "out": str(folder / "runs"), "device": device,
        "base.model": str(folder / "base"), "base.start_token": START, "lexicon.path": "lexicon.tsv", "vocab.size": 30,
        "align.steps": 3, "align.words": 8, "align.max_english_increase": 5.0, "data.sequence_length": 32,
        "train.steps": 20, "train.sequences": 4, "train.micro_batch": 2, "train.eval_every": 20, "train.save_every": 20,
        "evaluate.window_bytes": 64,
    }  # fmt: skip
    keys |= {f"text.{name}": [f"{name}.txt"] for name in ("target", "english")}
    keys |= {
        f"text.{kind}_{name}": f"{kind}_{name}.txt" for kind in ("valid", "test") for name in ("target", "english")
    }
    path = folder / "gate.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
