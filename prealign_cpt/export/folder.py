"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

cpt/step-… + align/ (config, tokenizer) --> export/: safetensors, tokenizer, README.md, MANIFEST.json
"""

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.export.card import model_card
from prealign_cpt.export.gate import compare
from prealign_cpt.manifest import atomic_write
from prealign_cpt.recipe import Recipe
from prealign_cpt.train.checkpoint import load_weights
from prealign_cpt.train.loss import LanguageModelLoss
from prealign_cpt.train.shard import load_whole


def build_export(recipe: Recipe, align: Path, step_folder: Path, probe: dict[str, list[float]], out: Path) -> None:
    """Fill `out` with the model to serve.

    Args:
        align: the stage folder that training started from.
        step_folder: a verified checkpoint.
        probe: the trainer's negative log-likelihoods per token, of the first validation batch of each language.

    Raises:
        DataError: the reloaded export does not give the trainer's log-probabilities; nothing is exported.
    """
    module = LanguageModelLoss(load_whole(align))
    load_weights(step_folder, module)
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    model = module.model.to(dtype)
    tokenizer = AutoTokenizer.from_pretrained(align, local_files_only=True)
    model.generation_config.do_sample = False
    for name in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, name, None)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    parity = compare(recipe, out, probe)
    atomic_write(out / "parity.json", json.dumps(parity, indent=1))
    atomic_write(out / "README.md", model_card(recipe, parity))
