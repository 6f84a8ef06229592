"""What all ranks do together, and the training of a folder's model: for the stage `train` and for `prealign chat`.

rank 0 prepares --> process group, one recipe on all ranks --on_ranks--> work(world)
model folder + packed rows --train_from--> checkpoints, metrics.jsonl, summary.json
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prealign_cpt.recipe.file import as_dict
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import signals
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import changes, say
from prealign_cpt.run.manifest import atomic_write

if TYPE_CHECKING:
    from prealign_cpt.data.mixture import Sequences
    from prealign_cpt.model.world import World


def on_ranks(recipe: Recipe, prepared: Callable[[], None], work: Callable[["World"], None]) -> None:
    """Work that all ranks do together, after rank 0 alone has prepared it.

    Raises:
        RecipeError: another rank has another recipe.
        what the work raises; of several errors the one that the others follow from.
    """
    from prealign_cpt.model.world import choose_device, first_failure, process_group

    with process_group(choose_device(recipe.device), before=prepared) as world:
        try:
            _agree(recipe, world)
            work(world)
        except BaseException as error:
            signals.ignore()  # torchrun signals the ranks that are left when one has ended
            cause = first_failure(error, world)
            if cause is not error:
                raise cause from error
            raise


def _agree(recipe: Recipe, world: "World") -> None:
    """Compare the recipe with that of rank 0, whose file may be another on another node.

    Raises:
        RecipeError: they differ; the keys are named.
    """
    text = json.dumps(as_dict(recipe))
    if world.rank == 0:
        world.store.set("recipe", text)
    elif (first := world.store.get("recipe").decode()) != text:
        told = ", ".join(changes(json.loads(first), json.loads(text)))
        raise RecipeError(f"the recipe here is not that of rank 0 ({told}); give every node the same file and flags")


def train_from(
    source: Path,
    mixture: "Sequences",
    recipe: Recipe,
    made_from: dict[str, Any],
    folder: Path,
    world: "World",
    accept: tuple[str, ...] = (),
) -> None:
    """Train the model of a folder as `recipe.train` says, on every rank, and write `summary.json` when it is done.

    Args:
        source: the model's.
        made_from: what decides the result; a checkpoint that says otherwise is refused.
        folder: for the checkpoints; metrics go to the file beside it.

    Raises:
        as `train`.
    """
    from transformers import AutoTokenizer

    from prealign_cpt.advise.memory import chosen_activations, shape_of, too_large
    from prealign_cpt.model.bits import held_out
    from prealign_cpt.model.tokens import new_tokens, start_token_id
    from prealign_cpt.train.adapters import prepare
    from prealign_cpt.train.loop import train
    from prealign_cpt.train.shard import sharded

    settings = recipe.train
    folder.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    valid = held_out(recipe, "valid", tokenizer)
    if world.rank == 0:
        say(f"train: {settings.steps} steps on {world.size} rank(s), {world.device.type}, {settings.precision}")
    shape, length, recomputed = shape_of(source), recipe.data.sequence_length, settings.checkpoint_activations
    if recomputed == "auto":
        recomputed = world.on_rank_0(lambda: chosen_activations(shape, settings, length, world))
        if world.rank == 0:
            say(f"train: checkpoint_activations: {recomputed}")
    if world.rank == 0 and (warning := too_large(shape, settings, recomputed, length, world)):
        say(f"train: {warning}")
    first_new, spellings = new_tokens(recipe, tokenizer)
    module = sharded(
        source, world, settings.precision, recomputed, settings.compile, settings.replicas,
        partial(prepare, recipe=settings, first_new=first_new, seed=recipe.seed), settings.offload,
    )  # fmt: skip
    module.soft_weight = recipe.codeswitch.soft_weight if recipe.codeswitch.labels == "soft" else 0.0
    composed = spellings if spellings and settings.composition_lr else None
    result = train(
        module, mixture, valid, settings, start_token_id(tokenizer, recipe), folder, made_from, world, first_new,
        composed, accept,
    )  # fmt: skip
    if world.rank == 0:
        atomic_write(folder / "summary.json", json.dumps({**result, "inputs": made_from}, indent=1))
        say(f"train: done, {result['tokens']} tokens at {result['tokens_per_second']:,.0f} tokens/s")
