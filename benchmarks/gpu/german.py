"""Every stage up to the export on carried German text: `python benchmarks/gpu/german.py --device cuda --out FOLDER`.

The base is `carried/base`: its own weights where they lie there, else random ones of its shape, which have learned
nothing; then speed, the curve's course and the gate count, not what is learned. Stopped by SIGTERM it saves,
and the same command goes on. One JSON object: what the training says of itself, and the gate's figures.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prealign_cpt.cli import main as prealign
from prealign_cpt.recipe.file import load_recipe

CARRIED = Path(__file__).resolve().parents[2] / "carried"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    path = written(options.out, options.device, options.steps)
    code = prealign(["export", str(path)])
    run = load_recipe(path).run
    found = {"exit_code": code}
    for name in ("train/summary.json", "export/parity.json"):
        if (run / name).is_file():
            content = json.loads((run / name).read_text())
            found |= {key: value for key, value in content.items() if key not in ("inputs", "probe")}
    print(json.dumps(found), flush=True)
    return code


def written(out: Path, device: str, steps: int) -> Path:
    """The recipe, with a base that has weights."""
    base, text = out / "base", CARRIED / "text"
    if not base.is_dir():
        shutil.copytree(CARRIED / "base", out / "base.new")
        if not list((out / "base.new").glob("*.safetensors")):
            torch.manual_seed(0)
            config = AutoConfig.from_pretrained(out / "base.new")
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out / "base.new")
        (out / "base.new").rename(base)
    keys = {
        "name": "german", "language": "German", "out": str(out / "runs"), "device": device,
        "base.model": str(base.resolve()),
        "lexicon.path": str(text / "en-de.tsv"), "vocab.size": 8000, "align.max_english_increase": 5.0,
        "data.sequence_length": 2048, "train.steps": steps, "train.sequences": 32, "train.micro_batch": 16,
        "train.lr": 1e-3, "train.compile": device == "cuda", "train.eval_every": 200, "train.save_every": 200,
    }  # fmt: skip
    for side in ("target", "english"):
        keys[f"text.{side}"] = [str(text / f"{side}.train.txt.gz")]
        keys |= {f"text.{kind}_{side}": str(text / f"{side}.{kind}.txt.gz") for kind in ("valid", "test")}
    path = out / "german.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
