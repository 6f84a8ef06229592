"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

cpt/step-… + align/ (config, tokenizer) --> export/: safetensors, tokenizer, README.md, MANIFEST.json
"""

import os
import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.errors import NumericError
from prealign_cpt.export import gate
from prealign_cpt.export.card import model_card
from prealign_cpt.manifest import atomic_write
from prealign_cpt.recipe import Recipe
from prealign_cpt.train.checkpoint import load_weights
from prealign_cpt.train.loss import LanguageModelLoss
from prealign_cpt.train.shard import load_whole


def build_export(
    recipe: Recipe, align: Path, step_folder: Path, probe: gate.Probe, out: Path, accept: bool = False
) -> None:
    """Fill `out` with the model to serve.

    Args:
        align: the stage folder that training started from.
        step_folder: a verified checkpoint.
        probe: what the trainer gave for held-out text.
        accept: publish the folder although its function is not the trainer's within rounding.

    Raises:
        DataError: the folder does not hold the trained weights; nothing is exported.
        NumericError: the reloaded folder does not compute what the trainer did; it is kept as `RUN/export.rejected`.
    """
    dtype = gate.EXACT[recipe.train.precision][0]
    model = _trained(align, step_folder).to(dtype)
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    model.generation_config.do_sample = False
    for name in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, name, None)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    del model
    gate.check_weights(out, _trained(align, step_folder).state_dict(), dtype)
    found = gate.compare(recipe, out, probe)
    gate.write(out, found, accept)
    atomic_write(out / "README.md", model_card(recipe, found.figures))
    rejected = recipe.run / "export.rejected"
    if rejected.exists():
        shutil.rmtree(rejected)
    if found.faults and not accept:
        os.rename(out, rejected)
        raise NumericError(gate.rejection(rejected, found))


def _trained(align: Path, step_folder: Path) -> PreTrainedModel:
    """The trained model, fp32."""
    module = LanguageModelLoss(load_whole(align))
    load_weights(step_folder, module)
    return module.model
