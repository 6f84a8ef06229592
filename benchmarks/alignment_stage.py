"""The alignment stage by itself, on validation text, without the training that follows.

    prealign prepare RECIPE; python benchmarks/alignment_stage.py RECIPE --variants FILE [--only A,B] [--KEY VALUE ...]

For each variant of a file as for `prealign compare`, one seed: bits per byte of both languages with the static rows,
after their calibration and after the training stage, the losses along the way, word retrieval, target text read,
and time. Prints one JSON object a variant. What one says of training and switching is ignored.
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

import prealign_cpt.lab.objectives  # noqa: F401  (makes their names known)
from prealign_cpt.align.calibrate import calibrate
from prealign_cpt.align.initialize import first_rows, grow
from prealign_cpt.align.lexicon_rows import TextStatistics
from prealign_cpt.align.rows import write_rows
from prealign_cpt.align.stage import run_stage
from prealign_cpt.evaluate import words
from prealign_cpt.evaluate.data import data_of
from prealign_cpt.evaluate.figures import Figure
from prealign_cpt.lab.compare.variants import read_grid, run_specs
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.bits import held_out, score
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.model.world import World
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.text.reader import read_documents


def measure(recipe: Recipe, run: Path) -> dict[str, Any]:
    """One variant; `run` holds the lexicon and the grown tokenizer."""
    base = resolve_base(recipe.base.model)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(run / "vocab")
    train = read_pairs(run / "lexicon" / "clean.tsv")
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).eval()
    grow(model, recipe.align, len(new), len(old))
    statistics = TextStatistics(
        read_documents(recipe.paths(recipe.text.target)),
        read_documents(recipe.paths(recipe.text.english)),
    )

    def bits() -> dict[str, float]:
        return {
            f"{language}_bpb": round(score(LanguageModelLoss(model), prepared).bits_per_byte, 4)
            for language, prepared in held_out(recipe, "valid", new).items()
        }

    started = time.process_time()
    rows, _ = first_rows(model, old, new, train, statistics, recipe)
    write_rows(model, len(old), rows)
    static_seconds = time.process_time() - started
    scores = [bits()]
    start = start_token_id(new, recipe)
    texts = statistics.target_text, statistics.english_text
    read = calibrate(model, old, new, *texts, recipe.align.calibrate, start, recipe.seed)
    scores.append(bits())
    curve: list[dict[str, float]] = []
    started = time.process_time()
    alone = World(0, 1, torch.device("cpu"), dist.HashStore())
    done = run_stage(model, new, old, train, recipe, curve.append, alone) if recipe.align.steps else {}
    seconds = time.process_time() - started
    scores.append(bits())
    subject: Any = SimpleNamespace(model=model, tokenizer=new, start_token_id=start, run=None)
    retrieved = words.measure(subject, data_of(recipe, run / "lexicon"))
    p1 = {name: retrieved.get(f"english_to_target/{name}") for name in ("p1_csls", "p1_csls_seen")}
    p1_heldout, p1_seen = (figure.value if isinstance(figure, Figure) else None for figure in p1.values())
    return {
        "target_bpb": [score["target_bpb"] for score in scores],
        "english_bpb": [score["english_bpb"] for score in scores],
        "p1_heldout": p1_heldout,
        "p1_seen": p1_seen,
        "target_bytes": read["target_bytes"] + done.get("target_bytes", 0),
        "cpu_s": [round(static_seconds, 1), round(seconds, 1)],
        "losses": [{k: round(v, 3) for k, v in row.items()} for row in curve[:: max(1, len(curve) // 4)]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--variants", type=Path, required=True)
    parser.add_argument("--only", default="")
    options, flags = parser.parse_known_args()
    run = load_recipe(options.recipe, flags).run
    grid = read_grid(options.variants)
    for spec in run_specs(grid, options.recipe, flags):
        if spec.recipe.seed == grid.seeds[0] and (not options.only or spec.variant in options.only.split(",")):
            print(json.dumps({"variant": spec.variant, **measure(spec.recipe, run)}), flush=True)


if __name__ == "__main__":
    main()
