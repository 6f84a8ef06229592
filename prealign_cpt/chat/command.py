"""`prealign chat RUN`: the stage `chat` of a finished run, an ordinary Hugging Face folder that answers.

    --instruct MODEL   RUN/export + scale (MODEL - base), no training                                   residual.py
    without            RUN/export trained on instructions and translations, by the training's own loop  pipeline.py

Rows, checkpoints and metrics of a training lie beside the stage until it is published (`RUN/.tasks-chat-…`), so the
same command goes on where it was stopped.
"""

import dataclasses
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from prealign_cpt.chat.crossing import Conversations
from prealign_cpt.chat.instructions import Messages, read_items
from prealign_cpt.chat.measure import QUESTIONS, Questions, measure, table
from prealign_cpt.chat.render import Renderer
from prealign_cpt.chat.residual import Residual, check_tokens
from prealign_cpt.chat.rows import Rows, write_rows
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.export import Probe, gate
from prealign_cpt.export.card import model_card
from prealign_cpt.export.folder import judge, let_read, without_weights, write_folder
from prealign_cpt.export.trained import Trained
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.model.world import World
from prealign_cpt.pipeline import new_tokens, on_ranks, train_from
from prealign_cpt.prepare import TASKS, task_folder
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import launch, signals
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.folder import Run, say
from prealign_cpt.run.manifest import atomic_write, folder_digest, verify
from prealign_cpt.stages import inputs
from prealign_cpt.text.languages import language_of
from prealign_cpt.text.sources import line_pairs
from prealign_cpt.text.stage import entries_of

HELD_OUT, LEAST_KEPT = 16, 10
"""Instructions that are asked and never trained on; and of so many one at most is taken."""


@dataclasses.dataclass(frozen=True)
class Command:
    """As it was given on the command line."""

    run: Path
    flags: tuple[str, ...] = ()
    instruct: str = ""
    scale: float = 1.0
    redo: bool = False
    num_processes: int = 0
    """0: one for each GPU, one on a CPU."""


def chat(command: Command) -> None:
    """Make `RUN/chat` if it is not there yet.

    Raises:
        MissingInputError: the run has no export; a file or the instruct model is not there.
        RecipeError: there is nothing to learn from; or `RUN/chat` was made from something else.
        DataError: an instruction file is wrong, or the instruct model is not one of this base.
        NumericError: the folder does not compute what was trained; it is kept as `RUN/chat.rejected`.
    """
    recipe = of_run(command.run, command.flags)
    num_processes = command.num_processes or torch.cuda.device_count()
    run = Run(recipe.run) if os.environ.get("RANK", "0") == "0" else None
    try:
        if run is not None and command.redo:
            run.set_aside(["chat"])
        if command.instruct:
            assert run is not None
            _add_residual(run, recipe, command)
        elif run is not None and num_processes > 1 and "RANK" not in os.environ:
            launch.start(["chat", str(command.run), *command.flags], num_processes, run.child_environment())
        else:
            _tune(run, recipe)
        if run is not None:
            run.end()
    except BaseException as error:
        if run is not None:
            signals.ignore()
            run.end(error)
        raise
    finally:
        if run is not None:
            run.close()


def of_run(folder: Path, flags: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a finished run, wherever the folder lies now.

    Raises:
        MissingInputError: no such run, or one without an export.
    """
    if not (folder / "recipe.toml").is_file() or not (folder / "export").is_dir():
        raise MissingInputError(f"{folder}: no run with an export; name the folder of a finished run, runs/NAME")
    recipe = load_recipe(folder / "recipe.toml", list(flags))
    return dataclasses.replace(recipe, out=str(folder.resolve().parent), name=folder.resolve().name)


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
    own = tuple((("user", text), ("assistant", "")) for text in QUESTIONS)
    name = language_of(recipe.language).name
    learned = Conversations(kept, pairs, name, settings.cross, settings.translations, recipe.seed)
    return learned, Questions(english or own, target)


def _asked(messages: Messages) -> Messages:
    return messages[:-1]


def _pairs(recipe: Recipe) -> list[tuple[str, str]]:
    """All parallel text of the recipe: English, target."""
    text = recipe.text
    found: list[tuple[str, str]] = []
    if text.parallel_target:
        found += line_pairs([recipe.path(text.parallel_english)], [recipe.path(text.parallel_target)])
    for source in text.source:
        if source.target and source.english:
            found += [pair for entry in entries_of(recipe, source) for pair in line_pairs(entry.files, entry.others)]
    return found


def _tune(run: Run | None, recipe: Recipe) -> None:
    """The training, on every rank; then rank 0 makes the folder."""
    training = training_of(recipe)
    export = recipe.run / "export"
    made_from = inputs("chat", recipe, run.digests, {"export": export}) if run else {}
    scratch = task_folder(recipe.run, "chat", made_from)

    def prepared() -> None:
        if run is None or run.has("chat", made_from) or (scratch / "rows.json").is_file():
            return
        run.start()
        tokenizer = _tokenizer(recipe)
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
    export, tokenizer = recipe.run / "export", _tokenizer(recipe)
    summary = json.loads((scratch / "train" / "summary.json").read_text(encoding="utf-8"))
    step = scratch / "train" / f"step-{recipe.train.steps:010}"
    verify(step)
    first_new, _ = new_tokens(recipe, tokenizer)
    trained = Trained(recipe, without_weights(export), export, step, first_new)
    base, template, turn_end = resolve_base(recipe.base.model), tokenizer.chat_template, Renderer(tokenizer).turn_end
    write_folder(recipe, export, trained.read, tokenizer, base, out, [] if turn_end is None else [turn_end])
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
    models = {"base": Subject(base, device=recipe.device, start_token=recipe.base.start_token)}
    _measured(recipe, models, "base", template, facts, {"rows": counts}, out, comparison.figures)


def _add_residual(run: Run, recipe: Recipe, command: Command) -> None:
    base, instruct = resolve_base(recipe.base.model), resolve_base(command.instruct)
    weights = {path.name: run.digests.sha256(path) for path in sorted(instruct.glob("*.safetensors"))}
    export = folder_digest(recipe.run / "export")
    made_from = {"export": export, "instruct": weights, "scale": command.scale, "chat.template": recipe.chat.template}
    run.stage("chat", made_from, partial(_fill_sum, recipe, base, instruct, command))


def _fill_sum(recipe: Recipe, base: Path, instruct: Path, command: Command, out: Path) -> None:
    """The sum as a folder, with the instruct model's template and ends, measured."""
    export = recipe.run / "export"
    theirs = AutoTokenizer.from_pretrained(instruct, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True)
    check_tokens(tokenizer, theirs)
    first_new, _ = new_tokens(recipe, tokenizer)
    template = _template(recipe) or theirs.chat_template
    tokenizer.chat_template = theirs.chat_template = template
    turn_end = Renderer(theirs).turn_end
    # A template that writes `bos_token` goes on to write the instruct model's.
    tokenizer.bos_token = theirs.bos_token
    ends = [] if turn_end is None else [turn_end]
    for number in (theirs.eos_token_id, _generation(instruct).eos_token_id):
        ends += number if isinstance(number, list) else [] if number is None else [number]
    with Residual(export, base, instruct, command.scale, first_new) as total:
        write_folder(recipe, export, total.read, tokenizer, base, out, ends)
    asked: Messages = (("user", "1"), ("assistant", "2"))
    written = Renderer(AutoTokenizer.from_pretrained(out, local_files_only=True))
    same = written.prompt(asked[:1]) == Renderer(theirs).prompt(asked[:1])
    if not same:
        say("chat: warning: new tokens spell words of the chat template, which the instruct model read otherwise")
    facts = [
        f"The difference of `{command.instruct}` and `{recipe.base.model}` was added {command.scale:g} times to body "
        "and old tokens' rows; new tokens' rows are as they were (chat vector, arXiv 2310.04799).",
        f"The chat template is that of `{command.instruct}`"
        + (", and a chat has the ids that it had there." if same else "; new tokens spell some of its words."),
    ]
    models = {"instruct": Subject(instruct, device=recipe.device, start_token=recipe.base.start_token)}
    _measured(recipe, models, "instruct", template, facts, {"template_ids_unchanged": same}, out, None)


def _measured(
    recipe: Recipe,
    models: dict[str, Subject],
    reference: str,
    template: Any,
    facts: list[str],
    about: dict[str, Any],
    out: Path,
    parity: dict[str, Any] | None,
) -> None:
    """Write `chat.json` and the card into the folder `out`, and print the table and five answers."""
    start = recipe.base.start_token
    models |= {
        "export": Subject(recipe.run / "export", device=recipe.device, start_token=start),
        "chat": Subject(out, device=recipe.device, start_token=start),
    }
    measured = measure(recipe, models, reference, template, _questions(recipe))
    atomic_write(out / "chat.json", json.dumps(about | measured, indent=1, ensure_ascii=False) + "\n")
    shown = table(measured)
    for line in shown.split("\n"):
        say(f"chat: {line}")
    for one in measured["answers"]["chat"]:
        say(f"chat: {one['way']}: {one['question']!r} -> {one['answer']!r}")
    chat = "\n## As an assistant\n\n" + "\n".join(f"- {fact}" for fact in facts) + f"\n\n{shown}\n"
    card = model_card(of_run(recipe.run), parity, recipe.run, resolve_base(recipe.base.model), chat)
    atomic_write(out / "README.md", card)
    let_read(out)


def _questions(recipe: Recipe) -> Questions:
    """As `conversations` holds them out; with no files, the ones that are always there."""
    if recipe.chat.instructions or recipe.chat.instructions_target:
        return conversations(recipe)[1]
    return Questions(tuple((("user", text), ("assistant", "")) for text in QUESTIONS), ())


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The export's, with the recipe's chat template if it names one."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(recipe.run / "export", local_files_only=True)
    tokenizer.chat_template = _template(recipe) or tokenizer.chat_template
    return tokenizer


def _template(recipe: Recipe) -> str:
    if not recipe.chat.template:
        return ""
    path = recipe.path(recipe.chat.template)
    if not path.is_file():
        raise MissingInputError(f"chat.template: {path}: no such file; name another")
    return path.read_text(encoding="utf-8")


def _generation(folder: Path) -> GenerationConfig:
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig()
    return GenerationConfig.from_pretrained(folder, local_files_only=True)
