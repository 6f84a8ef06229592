"""The stages of a run, and what each one reads: by this table a stage is made anew, or kept.

    recipe, files it names, folders of earlier stages --inputs--> JSON in the stage's manifest, compared at every start

A stage is made anew only if something that it read has changed. Nothing depends on the evaluation.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign_cpt.model.base import resolve_base
from prealign_cpt.recipe.file import as_dict
from prealign_cpt.recipe.schema import SIDES, Recipe, Source, Train
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.manifest import folder_digest
from prealign_cpt.text.stage import entries_of, split_off


@dataclass(frozen=True)
class Reads:
    """What decides the result of a stage."""

    keys: tuple[str, ...] = ()
    """Keys of the recipe, or whole sections, by their values."""
    files: tuple[str, ...] = ()
    """Keys of the recipe that name files, by the files' content."""
    stages: tuple[str, ...] = ()
    """Earlier stages, by their folders' digests."""


TEXTS = "texts"
"""Stands for the files of all sources of text; held-out texts that are named are read where they lie."""

LISTS = "lists"
"""Stands for the word lists of sources."""

FREE = (
    *("eval_every", "save_every", "keep", "save_at", "log"),
    *("micro_batch", "checkpoint_activations", "offload", "compile", "replicas"),
)
"""Keys of the training section that do not decide the weights."""

READS = {
    "lexicon": Reads(
        (
            *("lexicon.format", "lexicon.swapped", "lexicon.heldout", "lexicon.max_translations"),
            *("language", "languages", "seed"),
        ),
        ("lexicon.path", LISTS),
    ),
    "text": Reads(("text.document", "text.column", "split_off", "languages"), (TEXTS,)),
    "vocab": Reads(
        ("vocab.size", "vocab.kind", "vocab.pretokenizer", "weights"), ("base.model", "vocab.tokenizer"), ("text",)
    ),
    "data": Reads(
        (
            *("data", "codeswitch", "base.start_token", "base.end_token", "seed"),
            *("train.steps", "train.sequences", "weights"),
        ),
        stages=("text", "lexicon", "vocab"),
    ),
    "init": Reads(
        (
            *("align.init", "align.untie", "align.lexicon_weight", "align.calibrate"),
            *("base.start_token", "seed", "train.precision", "weights"),
        ),
        ("base.model", "align.rows"),
        ("text", "lexicon", "vocab"),
    ),
    "align": Reads(
        ("align", "base.start_token", "data.mixed_tokenization", "seed", "train.precision", "weights"),
        ("text.parallel_target", "text.parallel_english"),
        ("text", "lexicon", "init"),
    ),
    "train": Reads(
        (
            *(f"train.{key.name}" for key in dataclasses.fields(Train) if key.name not in FREE),
            *("data.english_share", "codeswitch", "base.start_token", "seed", "weights"),
        ),
        stages=("align", "data"),
    ),
    "export": Reads(stages=("train", "align")),
    "eval": Reads(
        ("evaluate", "base.start_token", "seed"),
        (
            *(f"text.{name}_{language}" for name in ("valid", "test", "general") for language in ("target", "english")),
            *("evaluate.clka", "evaluate.transfer_train", "evaluate.transfer_test"),
        ),
        ("text", "lexicon", "align", "export"),
    ),
}
"""In the order of the flow."""

ASKED_FOR = {
    "chat": Reads(
        (
            *("chat", "language", "base.start_token", "seed"),
            *(f"train.{key}" for key in ("clip", "lora_alpha", "lora_rank", "optimizer", "precision", "weight_decay")),
        ),
        (
            *(TEXTS, "chat.instructions", "chat.instructions_target", "chat.template"),
            *("text.parallel_target", "text.parallel_english"),
        ),
        ("export",),
    )
}
"""Stages that a run has only if a command of their own was given."""


def inputs(stage: str, recipe: Recipe, digests: Digests, folders: dict[str, Path]) -> dict[str, Any]:
    """What a stage is made from, as its manifest keeps it.

    Args:
        folders: published folders of the stages that it reads.

    Raises:
        MissingInputError: a file is not there; its key is named.
    """
    return {name: folder_digest(folders[name]) for name in _reads(stage).stages} | of_recipe(stage, recipe, digests)


def of_recipe(stage: str, recipe: Recipe, digests: Digests) -> dict[str, Any]:
    """Of what a stage is made from, the recipe's keys and files; earlier stages are left out.

    Raises:
        MissingInputError: a file is not there; its key is named.
    """
    content: dict[str, Any] = {}
    for key in _reads(stage).files:
        content |= _digests_of(key, recipe, digests)
    return content | {key: value for name in _reads(stage).keys for key, value in _values(recipe, name).items()}


def made_anew(key: str) -> list[str]:
    """The stages that a change of a recipe key makes anew, in the order of the flow."""
    return _with_dependents(
        stage
        for stage, reads in (READS | ASKED_FOR).items()
        if any(
            key == read or key.startswith(f"{read}.") for name in (*reads.keys, *reads.files) for read in _keys(name)
        )
    )


def with_dependents(stage: str) -> list[str]:
    """A stage and those that read it, directly or not, in the order of the flow.

    Raises:
        RecipeError: there is no such stage.
    """
    if stage not in READS | ASKED_FOR:
        raise RecipeError(f"--redo: {stage!r} is not a stage; the stages are {', '.join(READS)}")
    return _with_dependents([stage])


def _with_dependents(stages: Iterable[str]) -> list[str]:
    anew = set(stages)
    for name, reads in (READS | ASKED_FOR).items():
        if anew & set(reads.stages):
            anew.add(name)
    return [name for name in READS | ASKED_FOR if name in anew]


def _reads(stage: str) -> Reads:
    return (READS | ASKED_FOR)[stage]


def _keys(name: str) -> tuple[str, ...]:
    """The keys behind what `Reads` names."""
    plain = ("text.target", "text.english")
    return {TEXTS: (*plain, "text.source.name", *(f"text.source.{side}" for side in SIDES)),
            "weights": ("text.source.weight",), "languages": ("text.source.language",),
            LISTS: ("text.source.lexicon",)}.get(name, (name,))  # fmt: skip


def _values(recipe: Recipe, name: str) -> dict[str, Any]:
    """Values of the recipe by their dotted keys; a name is a section or a single key. No keys are "split_off", the sets
    of each side that are held out because none is named, and "weights" and "languages", those of the sources that have
    one."""
    if name == "split_off":
        return {name: [f"{one}_{side}" for side in SIDES for one in split_off(recipe, side)]}
    if name in ("weights", "languages"):
        key = name.removesuffix("s")
        given = {source.name: getattr(source, key) for source in recipe.text.source if getattr(source, key)}
        return {name: given} if given else {}
    section, _, key = name.partition(".")
    value = as_dict(recipe)[section]
    if key:
        return {name: value[key]}
    return {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}


def _digests_of(key: str, recipe: Recipe, digests: Digests) -> dict[str, Any]:
    """The content of the files that a key names, by the key and, where there are several, the file's name."""
    if key == TEXTS:
        return {f"text.{source.name}": _source_digests(recipe, source, digests) for side in SIDES for source in
                recipe.sources(side)}  # fmt: skip
    if key == LISTS:
        named = {source.name: recipe.path(source.lexicon) for source in recipe.text.source if source.lexicon}
        return {f"text.{name}.lexicon": _digest(f"text.{name}.lexicon", path, digests) for name, path in named.items()}
    (value,) = _values(recipe, key).values()
    if not value or (key == "vocab.tokenizer" and not recipe.vocab.size):
        return {}
    if key == "base.model":
        return {key: _base_digests(resolve_base(recipe.base.model), digests)}
    if not isinstance(value, str):
        return {key: {f"{i}:{path.name}": _digest(key, path, digests) for i, path in enumerate(recipe.paths(value))}}
    path = recipe.path(value)
    return {key: _digest(key, path / "tokenizer.json" if key == "vocab.tokenizer" else path, digests)}


def _source_digests(recipe: Recipe, source: Source, digests: Digests) -> dict[str, Any]:
    """The files of a source by content, many of them together; a dataset of a hub by its name alone."""
    found: dict[str, Any] = {}
    for i, entry in enumerate(entries_of(recipe, source)):
        own = [(path.name, _digest(f"text.{source.name}", path, digests)) for path in entry.files + entry.others]
        if len(own) == 1:
            found[f"{i}:{own[0][0]}"] = own[0][1]
        else:
            found[f"{i}:{entry.name}"] = hashlib.sha256(json.dumps(own).encode()).hexdigest() if own else entry.name
    return found


def _base_digests(base: Path, digests: Digests) -> dict[str, str]:
    """Weights by size and the small files by content: hashing a large base would take minutes."""
    small = {path.name: digests.sha256(path) for path in sorted(base.glob("*.json"))}
    return small | {path.name: str(path.stat().st_size) for path in sorted(base.glob("*.safetensors"))}


REMEDIES = {
    "lexicon.path": "name a word list; `prealign lexicon` writes one from a dictionary",
    "vocab.tokenizer": "name the folder of a grown tokenizer",
    "align.rows": "write it first, or choose another align.init",
}


def _digest(key: str, path: Path, digests: Digests) -> str:
    if not path.is_file():
        raise MissingInputError(f"{key}: {path}: no such file; {REMEDIES.get(key, 'name another')}")
    return digests.sha256(path)
