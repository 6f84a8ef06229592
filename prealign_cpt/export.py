"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

cpt/step-… + align/ (config, tokenizer) --> export/: safetensors, tokenizer, README.md, MANIFEST.json
"""

import json
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt import __version__
from prealign_cpt.errors import DataError
from prealign_cpt.evaluate.scores import held_out
from prealign_cpt.manifest import atomic_write
from prealign_cpt.recipe import Recipe
from prealign_cpt.recipe_file import as_toml
from prealign_cpt.train.checkpoint import load_weights
from prealign_cpt.train.loss import LanguageModelLoss
from prealign_cpt.train.shard import load_whole

TOLERANCE = {"fp32": (1e-4, 1e-3), "bf16": (0.02, 0.5)}
"""Largest mean and largest single difference, in nats per token, between the trainer's log-probabilities and those of
the reloaded export. With bf16 the same weights are multiplied in another order, which rounds differently."""


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
    parity = _compare(recipe, out, probe)
    atomic_write(out / "parity.json", json.dumps(parity, indent=1))
    atomic_write(out / "README.md", _card(recipe, parity))


def _compare(recipe: Recipe, folder: Path, probe: dict[str, list[float]]) -> dict[str, Any]:
    """Reload the folder and compare it, token by token, with the trainer."""
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = model.get_input_embeddings().weight.shape[0]
    if not rows == model.get_output_embeddings().weight.shape[0] == len(tokenizer) == model.config.vocab_size:
        raise DataError(f"{folder}: {rows} rows, {len(tokenizer)} tokens, vocab_size {model.config.vocab_size} differ")
    module = LanguageModelLoss(model.eval())
    differences: list[float] = []
    for language, batches in held_out(recipe, "valid", tokenizer).items():
        batch = batches[0]
        with torch.no_grad():
            nats = module(batch.inputs, batch.labels, batch.positions, each=True).tolist()
        differences += [abs(a - b) for a, b in zip(nats, probe[language], strict=True)]
    mean, largest = statistics.fmean(differences), max(differences)
    mean_limit, largest_limit = TOLERANCE[recipe.train.precision]
    if not (mean <= mean_limit and largest <= largest_limit):
        raise DataError(
            f"{folder}: the reloaded model differs from the trained one by {mean:.4g} nats per token on average and "
            f"{largest:.4g} at most ({mean_limit} and {largest_limit} allowed); the export is discarded"
        )
    return {"tokens": len(differences), "mean_difference": mean, "largest_difference": largest}


def _card(recipe: Recipe, parity: dict[str, Any]) -> str:
    """The model card; figures are added by the report, which knows them all."""
    return f"""---
language: [en, {recipe.language}]
library_name: transformers
tags: [continual-pretraining, vocabulary-extension, prealign]
---
# {recipe.name}

`{recipe.base.model}` extended to {recipe.language} by prealign_cpt {__version__}: new vocabulary learned on top of the
base tokenizer, rows initialised from subwords and a bilingual lexicon, contrastive alignment, and continual pretraining
with input-only code-switching and English replay.

- Start every text with `{recipe.base.start_token}`: training and evaluation did.
- {recipe.train.steps} steps of {recipe.train.sequences} sequences of {recipe.data.sequence_length} tokens.
- Reloaded, this folder gives the trainer's log-probabilities on {parity["tokens"]} tokens
  (mean difference {parity["mean_difference"]:.2g} nats, largest {parity["largest_difference"]:.2g}).
- The licence is that of the base model and of the texts it was trained on.

## Recipe

```toml
{as_toml(recipe)}```
"""
