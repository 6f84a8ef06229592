"""`prealign chat RUN`: the stage `chat` of a finished run, an ordinary Hugging Face folder that answers.

--instruct MODEL   RUN/export + scale (MODEL - base), no training                                   residual.py
without            RUN/export trained on instructions and translations, by the training's own loop  tune.py
"""

import dataclasses
import os
from functools import partial
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig

from prealign_cpt.chat.instructions import Messages
from prealign_cpt.chat.measure import QUESTIONS, Questions
from prealign_cpt.chat.publish import end_turns, measured, publish, template_of
from prealign_cpt.chat.render import Renderer
from prealign_cpt.chat.residual import Residual, check_tokens
from prealign_cpt.chat.tune import conversations, tune
from prealign_cpt.export.folder import write_folder
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import new_tokens
from prealign_cpt.recipe.file import recipe_of
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import launch
from prealign_cpt.run.errors import MissingInputError
from prealign_cpt.run.folder import Run, ended, say
from prealign_cpt.run.manifest import folder_digest


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
    if not (command.run / "export").is_dir():
        raise MissingInputError(f"{command.run}: no run with an export; name the folder of a finished run, runs/NAME")
    recipe = recipe_of(command.run, list(command.flags))
    num_processes = command.num_processes or torch.cuda.device_count()
    run = Run(recipe.run) if os.environ.get("RANK", "0") == "0" else None
    with ended(run):
        if run is not None and command.redo:
            run.set_aside(["chat"])
        if command.instruct:
            if run is not None:
                _add_residual(run, recipe, command)
        elif run is not None and num_processes > 1 and "RANK" not in os.environ:
            launch.start(["chat", str(command.run), *command.flags], num_processes, run.child_environment())
        else:
            tune(run, recipe)


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
    template = template_of(recipe) or theirs.chat_template
    tokenizer.chat_template = theirs.chat_template = template
    turn_end = Renderer(theirs).turn_end
    # A template that writes `bos_token` goes on to write the instruct model's.
    tokenizer.bos_token = theirs.bos_token
    ends = end_turns(tokenizer, turn_end)
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
    settings = recipe.chat
    asked_for = settings.instructions or settings.instructions_target
    questions = conversations(recipe)[1] if asked_for else Questions(QUESTIONS, ())
    figures = measured(recipe, out, ("instruct", instruct), template, questions)
    publish(recipe, out, {"template_ids_unchanged": same} | figures, facts, None)


def _generation(folder: Path) -> GenerationConfig:
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig()
    return GenerationConfig.from_pretrained(folder, local_files_only=True)
