"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

cpt/step-… + align/ (config, tokenizer) --> export/: safetensors, configurations, tokenizer, README.md, licence
"""

import json
import os
import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.export import gate
from prealign_cpt.export.card import model_card
from prealign_cpt.export.config import set_ends, with_old_names
from prealign_cpt.export.tokenizer import save_tokenizer
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import end_token_id, start_token_id
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.run.manifest import atomic_write
from prealign_cpt.train.stored import load_weights

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of the base that go where its weights go."""


def build_export(
    recipe: Recipe, align: Path, step_folder: Path, probe: gate.Probe, out: Path, accept: bool = False
) -> None:
    """Fill `out` with the model to serve, readable by whom the umask lets read.

    Args:
        align: the stage folder that training started from; the run's other stages lie beside it.
        step_folder: a verified checkpoint.
        probe: what the trainer gave for held-out text.
        accept: publish the folder although its function is not the trainer's within rounding.

    Raises:
        DataError: the folder does not hold the trained weights; nothing is exported.
        NumericError: the reloaded folder does not compute what the trainer did; it is kept as `RUN/export.rejected`.
    """
    base = resolve_base(recipe.base.model)
    dtype = gate.EXACT[recipe.train.precision][0]
    model = _trained(align, step_folder).to(dtype)
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    set_ends(model, start_token_id(tokenizer, recipe), end_token_id(tokenizer, recipe))
    model.save_pretrained(out)
    del model
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    atomic_write(out / "config.json", json.dumps(with_old_names(config), indent=2, ensure_ascii=False) + "\n")
    save_tokenizer(tokenizer, recipe.base.start_token, align.parent / "vocab", out)
    for path in sorted(path for pattern in LICENCES for path in base.glob(pattern)):
        shutil.copyfile(path, out / path.name)
    gate.check_weights(out, _trained(align, step_folder).state_dict(), dtype)
    found = gate.compare(recipe, out, probe)
    gate.write(out, found, accept)
    atomic_write(out / "README.md", model_card(recipe, found.figures, align.parent, base))
    _let_read(out)
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


def _let_read(folder: Path) -> None:
    """Give all files the mode that a new file has: safetensors makes its own readable by their owner alone."""
    mask = os.umask(0o022)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)
