"""The second half of the alignment, on every rank: the model with static rows in, one with trained new rows out.

init/ ─► training stage, all ranks together ─► English scored, the gate ─► Hugging Face folder, report.json, rows.tsv
"""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from prealign_cpt.align.initialize import BASE_TOKENIZER, PIECES, english_bits, run_dtype
from prealign_cpt.align.stage import run_stage
from prealign_cpt.align.unrounded import save_unrounded
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.spread import load_spread
from prealign_cpt.model.tensors import Tensors
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.run.manifest import NAME, atomic_write


def build_align(recipe: Recipe, init: Path, pairs: list[Pair], out: Path | None, world: World) -> None:
    """Fill `out` with the aligned model, its tokenizer, `report.json` and `rows.tsv`. All ranks call it together.

    Args:
        init: what `build_init` has written.
        pairs: the training half of the lexicon.
        out: None on the ranks that write nothing, which are all but rank 0.

    Raises:
        NumericError: a loss or a weight is not finite, or English bits per byte rose by more than the recipe allows.
        RecipeError, DataError: the training stage cannot do what the recipe asks of this model or text.
    """
    before = json.loads((init / "report.json").read_text(encoding="utf-8"))
    new_tokens = before["new_tokens"]
    trains = bool(recipe.align.steps and (new_tokens or recipe.align.trains != "new_rows"))
    tokenizer, base_tokenizer = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True) for folder in (init, init / BASE_TOKENIZER)
    )
    if world.size > 1 and recipe.align.trains == "new_rows":
        model = load_spread(init, run_dtype(recipe), world)
    else:
        model = load_whole(init, run_dtype(recipe)).to(world.device).eval()
    curve: list[dict[str, float]] = []
    done: dict[str, Any] = {"steps": 0}
    if trains:
        done = run_stage(model, tokenizer, base_tokenizer, pairs, recipe, curve.append, world)
    changed = bool(new_tokens or done["steps"])
    english_after = english_bits(model, tokenizer, recipe) if changed else before["english_before"]
    _gate(before["english_before"], english_after, recipe.align.max_english_increase)
    if out is None:
        return
    if done["steps"]:
        with Tensors(init) as exact:
            save_unrounded(model, exact.read, tokenizer, out)
        shutil.copy(init / "rows.tsv", out)
    else:
        unwanted = shutil.ignore_patterns(BASE_TOKENIZER, PIECES, "report.json", NAME)
        shutil.copytree(init, out, ignore=unwanted, dirs_exist_ok=True)
    report = {key: before[key] for key in ("new_tokens", "rows", "calibration")} | {
        "contrast": curve,
        "contrast_stage": done,
        "english_gate": {
            "before": before["english_before"],
            "after": english_after,
            "limit": recipe.align.max_english_increase,
        },
    }
    atomic_write(out / "report.json", json.dumps(report, indent=1))


def _gate(before: float, after: float, limit: float) -> None:
    if not after - before <= limit:  # which NaN is not
        raise NumericError(
            f"align: English bits per byte rose from {before} to {after}, more than align.max_english_increase "
            f"({limit}); lower align.lr or align.calibrate, or raise the limit"
        )
