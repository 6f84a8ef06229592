"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

cpt/step-… + align/ (config, tokenizer) --> export/: safetensors, configurations, tokenizer, README.md, licence
"""

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.export.card import model_card
from prealign_cpt.export.config import set_ends, with_old_names
from prealign_cpt.export.gate import compare
from prealign_cpt.export.tokenizer import save_tokenizer
from prealign_cpt.fetch.base import resolve_base
from prealign_cpt.manifest import atomic_write
from prealign_cpt.model.tokens import end_token_id, start_token_id
from prealign_cpt.recipe import Recipe
from prealign_cpt.train.checkpoint import load_weights
from prealign_cpt.train.loss import LanguageModelLoss
from prealign_cpt.train.shard import load_whole

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of the base that go where its weights go."""


def build_export(recipe: Recipe, align: Path, step_folder: Path, probe: dict[str, list[float]], out: Path) -> None:
    """Fill `out` with the model to serve, readable by whom the umask lets read.

    Args:
        align: the stage folder that training started from; the run's other stages lie beside it.
        step_folder: a verified checkpoint.
        probe: the trainer's negative log-likelihoods per token, of the first validation batch of each language.

    Raises:
        DataError: the reloaded export does not give the trainer's log-probabilities; nothing is exported.
    """
    base = resolve_base(recipe.base.model)
    module = LanguageModelLoss(load_whole(align))
    load_weights(step_folder, module)
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    model = module.model.to(dtype)
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    set_ends(model, start_token_id(tokenizer, recipe), end_token_id(tokenizer, recipe))
    model.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    atomic_write(out / "config.json", json.dumps(with_old_names(config), indent=2, ensure_ascii=False) + "\n")
    save_tokenizer(tokenizer, recipe.base.start_token, align.parent / "vocab", out)
    for path in sorted(path for pattern in LICENCES for path in base.glob(pattern)):
        shutil.copyfile(path, out / path.name)
    _let_read(out)
    parity = compare(recipe, out, probe)
    atomic_write(out / "parity.json", json.dumps(parity, indent=1))
    atomic_write(out / "README.md", model_card(recipe, parity, align.parent, base))


def _let_read(folder: Path) -> None:
    """Give all files the mode that a new file has: safetensors makes its own readable by their owner alone."""
    mask = os.umask(0o022)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)
