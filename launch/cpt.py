"""Continual pretraining, every stage of it: `torchrun --nproc-per-node N launch/cpt.py RECIPE.toml [--key value ...]`.

Flags are keys of the recipe, such as `--train.steps 100`; `--redo STAGE` throws away a stage and those behind it,
`--accept train.steps` goes on although that key has changed (docs/reliability.md).
Without torchrun it runs as one process.
"""

import sys

from prealign_cpt.cli import run_recipe

if __name__ == "__main__":
    sys.exit(run_recipe(sys.argv[1:]))
