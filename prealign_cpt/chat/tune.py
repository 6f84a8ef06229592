"""Cross-lingual instruction tuning of a run's export, by the training's own loop.

    files of the recipe --> items, pairs --> conversations --> rows --train_from, all ranks--> checkpoint --> RUN/chat
                              `-- held out: questions ----------------------------------- measured ----------^

Rows, checkpoints and metrics lie beside the stage until it is published (`RUN/.tasks-chat-…`), so the same command goes
on where it was stopped.
"""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from prealign_cpt.chat.crossing import Conversations
from prealign_cpt.chat.instructions import Messages, read_items
from prealign_cpt.chat.measure import QUESTIONS, Questions
from prealign_cpt.chat.publish import end_turns, measured, publish, tokenizer_of
from prealign_cpt.chat.render import Renderer
from prealign_cpt.chat.rows import Rows, write_rows
from prealign_cpt.export import Probe, gate
from prealign_cpt.export.folder import judge, without_weights, write_folder
from prealign_cpt.export.trained import Trained
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import new_tokens, start_token_id
from prealign_cpt.model.world import World
from prealign_cpt.prepare import TASKS, task_folder
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import Run, say
from prealign_cpt.run.manifest import atomic_write, verify
from prealign_cpt.stages import inputs
from prealign_cpt.text.languages import language_of
from prealign_cpt.text.parallel import line_pairs
from prealign_cpt.text.stage import entries_of
from prealign_cpt.training import on_ranks, train_from

HELD_OUT, LEAST_KEPT = 16, 10
"""Instructions that are asked and never trained on; and of so many one at most is taken."""


def training_of(recipe: Recipe) -> Recipe:
    """The recipe as the training on conversations reads it: one rate for all, falling in a cosine as in AFP."""
    settings, adapted = recipe.chat, recipe.chat.method != "full"
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, sequence_length=settings.sequence_length),
        codeswitch=dataclasses.replace(recipe.codeswitch, labels="input_only"),
        train=dataclasses.replace(
            recipe.train,
            method=settings.method,
            steps=settings.steps,
            sequences=settings.sequences,
            lr=settings.lr or (2e-4 if adapted else 1e-5),
            embeddings_lr=0.0,
            rows_lr=0.0,
            rows_steps=0,
            composition_lr=0.0,
            schedule="cosine",
            warmup=0.03,
            optimizer="adamw" if adapted else recipe.train.optimizer,
            eval_every=max(1, settings.steps // 4),
            save_every=min(500, max(1, settings.steps // 5)),
        ),
    )


def conversations(recipe: Recipe) -> tuple[Conversations, Questions]:
    """What is learned, and what is held out of it to be asked.

    Raises:
        MissingInputError, DataError: a file is not there, or wrong.
        RecipeError: no file is named.
    """
    settings = recipe.chat
    items = read_items(recipe.paths(settings.instructions), recipe.paths(settings.instructions_target))
    pairs = list(_pairs(recipe))
    if not items and not pairs:
        raise RecipeError(
            "chat: nothing to learn from: name instruction files with chat.instructions, parallel text with "
            "text.parallel_target and text.parallel_english, or an instruct model with --instruct"
        )
    order = np.random.default_rng([recipe.seed, len(items)]).permutation(len(items))
    held = [items[i] for i in order[: min(HELD_OUT, len(items) // LEAST_KEPT)]]
    known = {_asked(messages) for item in held for messages in (item.english, item.target) if messages}
    kept = [item for item in items if not {_asked(one) for one in (item.english, item.target) if one} & known]
    english, target = (tuple(m for item in held if (m := getattr(item, side))) for side in ("english", "target"))
    name = language_of(recipe.language).name
    learned = Conversations(kept, pairs, name, settings.cross, settings.translations, recipe.seed)
    return learned, Questions(english or QUESTIONS, target)


def _asked(messages: Messages) -> Messages:
    return messages[:-1]


def _pairs(recipe: Recipe) -> list[tuple[str, str]]:
    """All parallel text of the recipe: English, target."""
    text = recipe.text
    found: list[tuple[str, str]] = []
    if text.parallel_target:
        found += line_pairs(recipe.path(text.parallel_english), recipe.path(text.parallel_target))
    for source in text.source:
        if source.target and source.english:
            for entry in entries_of(recipe, source):
                for english, target in zip(entry.files, entry.others, strict=True):
                    found += line_pairs(english, target)
    return found


def tune(run: Run | None, recipe: Recipe) -> None:
    """The training, on every rank; then rank 0 makes the folder."""
    training = training_of(recipe)
    export = recipe.run / "export"
    made_from = inputs("chat", recipe, run.digests, {"export": export}) if run else {}
    scratch = task_folder(recipe.run, "chat", made_from)

    def prepared() -> None:
        if run is None or run.has("chat", made_from) or (scratch / "rows.json").is_file():
            return
        run.start()
        tokenizer = tokenizer_of(recipe)
        learned, _ = conversations(recipe)
        renderer, (num_rows, length) = Renderer(tokenizer), (training.num_sequences, recipe.chat.sequence_length)
        counts = write_rows(learned, renderer, num_rows, length, start_token_id(tokenizer, recipe), scratch / "rows")
        say(f"chat: {counts}")
        atomic_write(scratch / "rows.json", json.dumps(counts))

    def work(world: World) -> None:
        done = run is not None and (run.has("chat", made_from) or (scratch / "train" / "summary.json").is_file())
        folder, known, done = world.on_rank_0(lambda: (scratch, made_from, done))
        if not done:
            if run is not None:
                run.start()
            train_from(export, Rows(folder / "rows"), training, known, folder / "train", world)

    on_ranks(recipe, prepared, work)
    if run is not None:
        run.stage("chat", made_from, partial(_fill_tuned, training, scratch))
        for rest in recipe.run.glob(f"{TASKS}chat-*"):
            shutil.rmtree(rest)


def _fill_tuned(recipe: Recipe, scratch: Path, out: Path) -> None:
    """The trained model as a folder, compared with the trainer as an export is, and measured."""
    export, tokenizer = recipe.run / "export", tokenizer_of(recipe)
    summary = json.loads((scratch / "train" / "summary.json").read_text(encoding="utf-8"))
    step = scratch / "train" / f"step-{recipe.train.steps:010}"
    verify(step)
    first_new, _ = new_tokens(recipe, tokenizer)
    trained = Trained(recipe, without_weights(export), export, step, first_new)
    base, template, turn_end = resolve_base(recipe.base.model), tokenizer.chat_template, Renderer(tokenizer).turn_end
    write_folder(recipe, export, trained.read, tokenizer, base, out, end_turns(tokenizer, turn_end))
    comparison = gate.compare(recipe, out, Probe(**summary["probe"]))
    gate.write(out, comparison, accepted=False)
    judge(comparison, out, recipe.run / "chat.rejected", accept=False)
    counts = json.loads((scratch / "rows.json").read_text(encoding="utf-8"))
    settings = recipe.chat
    facts = [
        f"{settings.steps} steps of {settings.sequences} rows of {settings.sequence_length} tokens "
        f"(`{settings.method}`): {counts['conversations']} conversations, loss on their {counts['learned']} tokens of "
        "answers alone.",
        f"An instruction of both languages is answered in the other one with probability {settings.cross:g} "
        "(AFP, arXiv 2311.08089).",
    ]
    shutil.copyfile(scratch / "metrics.jsonl", out / "metrics.jsonl")
    figures = {"rows": counts} | measured(recipe, out, ("base", base), template, conversations(recipe)[1])
    publish(recipe, out, figures, facts, comparison.figures)
