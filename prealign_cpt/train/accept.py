"""Whether a started run may go on under a changed recipe: only if every step done so far would have been the same.

    recipe of the checkpoint + recipe of now + steps done  -->  nothing, or RecipeError

That holds for the length of a run as long as the learning rate has not begun to fall: `--train.steps 2000 --accept
train.steps` makes a run of 1000 steps longer that stands at step 600 of a warm-up-stable-decay schedule without
warm-up. The warm-up is a share of the steps, so it has to change with them.
"""

import dataclasses
from typing import Any

from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import ACCEPTABLE, changes
from prealign_cpt.train.optim import rates


def check_accepted(made_from: dict[str, Any], inputs: dict[str, Any], recipe: Train, done: int) -> None:
    """Compare the steps done under the inputs of a checkpoint with those of the recipe of now.

    Raises:
        RecipeError: a step would have been another; it is named.
    """
    changed = [key for key in ACCEPTABLE if made_from.get(key) != inputs.get(key)]
    if not changed:
        return
    told = ", ".join(changes({k: made_from.get(k) for k in changed}, {k: inputs.get(k) for k in changed}))
    remedy = "start again with --redo cpt, or give the run another name"
    if "train.steps" in changed and inputs.get("codeswitch.curriculum") == "falling":
        raise RecipeError(f'--accept: {told}: codeswitch.curriculum "falling" spreads over all steps; {remedy}')
    if recipe.steps < done:
        raise RecipeError(f"--accept: {told}: the run has done {done} steps already; {remedy}")
    old = dataclasses.replace(recipe, **{key.removeprefix("train."): made_from[key] for key in changed})
    for step in range(done):
        if rates(step, old) != rates(step, recipe):
            raise RecipeError(
                f"--accept: {told}: step {step + 1} of the {done} that are done would have had another learning rate "
                f"(warm-up and decay are shares of train.steps); {remedy}"
            )
