"""Is the exported folder the trained model?"""

import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.errors import DataError
from prealign_cpt.evaluate.scores import held_out
from prealign_cpt.recipe import Recipe
from prealign_cpt.train.loss import LanguageModelLoss

TOLERANCE = {"fp32": (1e-4, 1e-3), "bf16": (0.02, 0.5)}
"""Largest mean and largest single difference, in nats per token, between the trainer's log-probabilities and those of
the reloaded export. With bf16 the same weights are multiplied in another order, which rounds differently."""


def compare(recipe: Recipe, folder: Path, probe: dict[str, list[float]]) -> dict[str, Any]:
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
