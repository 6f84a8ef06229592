"""What both ways of `prealign chat` have in common: the run's recipe, its tokenizer, and the folder's figures and card.

folder that answers, RUN/export, a reference --measured--> figures
folder, figures, facts --publish--> chat.json, README.md; a table and five answers printed
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.chat.measure import Questions, measure, table
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.export.card import model_card
from prealign_cpt.export.folder import let_read
from prealign_cpt.model.base import resolve_base
from prealign_cpt.recipe.file import recipe_of
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import MissingInputError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The export's, with the recipe's chat template if it names one."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(recipe.run / "export", local_files_only=True)
    tokenizer.chat_template = template_of(recipe) or tokenizer.chat_template
    return tokenizer


def end_turns(tokenizer: PreTrainedTokenizerBase, turn_end: int | None) -> list[int]:
    """Make the token that ends an answer the tokenizer's EOS, which is the only end that some servers know; and, as a
    list, the further ends of the folder."""
    if turn_end is None:
        return []
    tokenizer.eos_token = str(tokenizer.convert_ids_to_tokens(turn_end))
    return [turn_end]


def template_of(recipe: Recipe) -> str:
    if not recipe.chat.template:
        return ""
    path = recipe.path(recipe.chat.template)
    if not path.is_file():
        raise MissingInputError(f"chat.template: {path}: no such file; name another")
    return path.read_text(encoding="utf-8")


def measured(
    recipe: Recipe, out: Path, reference: tuple[str, Path], template: Any, questions: Questions
) -> dict[str, Any]:
    """Figures, as `measure` gives them, of the folder `out`, of the run's export and of a reference.

    Args:
        reference: its name and folder.
        template: chat template of models that have none.
    """
    name, folder = reference
    folders = {name: folder, "export": recipe.run / "export", "chat": out}
    models = {
        one: Subject(path, device=recipe.device, start_token=recipe.base.start_token) for one, path in folders.items()
    }
    return measure(recipe, models, name, template, questions)


def publish(
    recipe: Recipe, out: Path, figures: dict[str, Any], facts: list[str], parity: dict[str, Any] | None
) -> None:
    """Write `chat.json` and the card into the folder `out`, and print the table and five answers.

    Args:
        figures: those of `measured` and what else `chat.json` is to have.
        facts: for the card, how the model was made.
        parity: figures of the comparison with the trained model, if there was one.
    """
    atomic_write(out / "chat.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    shown = table(figures)
    for line in shown.split("\n"):
        say(f"chat: {line}")
    for one in figures["answers"]["chat"]:
        say(f"chat: {one['way']}: {one['question']!r} -> {one['answer']!r}")
    chat = "\n## As an assistant\n\n" + "\n".join(f"- {fact}" for fact in facts) + f"\n\n{shown}\n"
    run = recipe_of(recipe.run)
    card = model_card(run, parity, recipe.run, resolve_base(recipe.base.model), run.train.steps, chat)
    atomic_write(out / "README.md", card)
    let_read(out)
