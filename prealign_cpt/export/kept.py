"""A kept step of a run, milestone or checkpoint, as an ordinary Hugging Face folder.

RUN/recipe.toml + align/ + train/{step-…, kept/step-…} --export, with its gates--> RUN/export-stepN/
"""

from pathlib import Path

from transformers import AutoTokenizer

from prealign_cpt.export import Probe, build_export
from prealign_cpt.model.tokens import new_tokens
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import ACCEPTABLE, changes
from prealign_cpt.run.manifest import new_folder, verify
from prealign_cpt.stages import READS, inputs
from prealign_cpt.train.checkpoint import kept


def export_step(recipe: Recipe, step: int, target: Path | None = None, accept: bool = False) -> Path:
    """Write the weights after a step as the export stage writes those of the last, and compare them as it does.

    Args:
        target: by default `export-stepN` in the run folder.
        accept: publish the folder although its function is not the trainer's within rounding.

    Raises:
        RecipeError: the step was not kept, which are is told; or it was made from other inputs, or by an earlier
            version that kept nothing to compare with.
        StorageError: the target is there already.
        as `verify` and `build_export`.
    """
    run, paths = recipe.run, kept(recipe.run)
    if step not in paths:
        there = f"there are {', '.join(map(str, paths))}" if paths else "none is there"
        raise RecipeError(f'--step {step}: not kept in {run / "train"}; {there} (train.save_at = "log" keeps more)')
    path, align = paths[step], run / "align"
    about = verify(path)["about"]
    digests = Digests(run / "digests.json")
    folders = {name: run / name for name in READS["train"].stages}
    if changed := changes(about["inputs"], inputs("train", recipe, digests, folders), ACCEPTABLE):
        raise RecipeError(f"{path}: was made from other inputs ({', '.join(changed)}); name the recipe it was made by")
    if "probe" not in about:
        raise RecipeError(f"{path}: an earlier version wrote it, with no figures to compare an export with")
    first_new, _ = new_tokens(recipe, AutoTokenizer.from_pretrained(align, local_files_only=True))
    target = target or run / f"export-step{step}"
    with new_folder(target, {"stage": "export", "step": step, "inputs": about["inputs"]}) as out:
        rejected = target.with_name(f"{target.name}.rejected")
        build_export(recipe, align, path, Probe(**about["probe"]), out, accept, first_new, rejected)
    return target
