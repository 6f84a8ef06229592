"""What the stages are made from: looked at before any work, and compared to tell whether a stage must be done again."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from prealign_cpt.evaluate.scores import evaluation_files, question_files
from prealign_cpt.model.base import check_base, resolve_base
from prealign_cpt.model.load import check_isolation, check_structure, check_tokenizer, load_whole
from prealign_cpt.model.tokens import end_token_id, start_token_id
from prealign_cpt.recipe.file import as_dict
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.manifest import sha256
from prealign_cpt.text.reader import read_documents


def check_inputs(recipe: Recipe) -> Path:
    """Look at everything the recipe names before any work is done; return the base model's folder.

    Raises:
        MissingInputError, DataError, RecipeError: an input is not there or not usable; it is named.
    """
    base = resolve_base(recipe.base.model)
    check_base(base)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    start_token_id(tokenizer, recipe)
    end_token_id(tokenizer, recipe)
    check_tokenizer(base, tokenizer)
    check_structure(base)
    if not (recipe.run / "vocab").exists():  # its weights, once before they are needed: that may be many gigabytes
        check_isolation(load_whole(base))
    named = recipe.paths(recipe.text.target + recipe.text.english) + evaluation_files(recipe)
    for path in named:
        next(iter(read_documents([path])))
    if not recipe.path(recipe.lexicon.path).is_file():
        raise MissingInputError(
            f"lexicon.path: {recipe.path(recipe.lexicon.path)}: no such file; lists that ship lie in lexicons/"
        )
    for path in question_files(recipe):
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file; see evaluate.clka and evaluate.transfer_* of the recipe")
    for path in rows_files(recipe):
        if not path.is_file():
            raise MissingInputError(f"align.rows: {path}: no such file; write it first, or choose another align.init")
    test = {sha256(path) for path in evaluation_files(recipe)}
    for path in recipe.paths(recipe.text.target + recipe.text.english):
        if sha256(path) in test:
            raise RecipeError(f"{path}: stands among the training texts and among the held-out ones; choose one")
    return base


def given_tokenizer(recipe: Recipe) -> dict[str, str]:
    """The digest of a ready grown tokenizer, if the vocabulary stage reads one."""
    if not (recipe.vocab.tokenizer and recipe.vocab.size):
        return {}
    path = recipe.path(recipe.vocab.tokenizer) / "tokenizer.json"
    if not path.is_file():
        raise MissingInputError(f"vocab.tokenizer: {path}: no such file; name the folder of a grown tokenizer")
    return {"tokenizer": sha256(path)}


def parallel_files(recipe: Recipe) -> list[Path]:
    """The parallel text, if the alignment reads it."""
    used = recipe.align.unit == "sentence" and recipe.align.steps and recipe.align.weight
    return recipe.paths((recipe.text.parallel_english, recipe.text.parallel_target)) if used else []


def rows_files(recipe: Recipe) -> list[Path]:
    """The file of ready rows, if the alignment reads one."""
    return [recipe.path(recipe.align.rows)] if recipe.align.rows else []


def base_digest(base: Path) -> dict[str, str]:
    """Weights by size and the small files by content: hashing a large base at every start would take minutes."""
    small = {p.name: sha256(p) for p in sorted(base.glob("*.json"))}
    return small | {p.name: str(p.stat().st_size) for p in sorted(base.glob("*.safetensors"))}


def decisive(recipe: Recipe) -> dict[str, Any]:
    """What of the training section decides the weights; the rest may change between starts."""
    free = {"eval_every", "save_every", "keep", "micro_batch", "checkpoint_activations", "compile", "replicas"}
    found = values(recipe, "train", "data.english_share", "codeswitch", "base.start_token", "seed")
    return {key: value for key, value in found.items() if key.removeprefix("train.") not in free}


def values(recipe: Recipe, *names: str) -> dict[str, Any]:
    """Values of the recipe by their dotted keys; a name is a section or a single key."""
    found: dict[str, Any] = {}
    for name in names:
        section, _, key = name.partition(".")
        value = as_dict(recipe)[section]
        if key:
            found[name] = value[key]
        else:
            found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found
