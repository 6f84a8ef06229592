"""The model card of an export."""

from typing import Any

from prealign_cpt import __version__
from prealign_cpt.recipe import Recipe
from prealign_cpt.recipe_file import as_toml


def model_card(recipe: Recipe, parity: dict[str, Any]) -> str:
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
  (mean difference {parity["mean"]:.2g} nats).
- The licence is that of the base model and of the texts it was trained on.

## Recipe

```toml
{as_toml(recipe)}```
"""
