"""The evaluation data: local files, each optional, and what is taken of them.

    recipe (held-out texts, questions, prompts) + run folder (lexicon) + flags --work_from--> Work
    Work.pairs(), Work.documents("target", "test"), ...  --> content, or NoDataError: the figure is absent

A reader raises `NoDataError` where no file is named, and the ordinary errors where a named file is wrong.
"""

import dataclasses
import hashlib
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.read import Labelled, read_labelled, read_parallel
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.model.bits import windows
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.manifest import sha256
from prealign_cpt.text.reader import read_documents

LANGUAGES = ("target", "english")


class NoDataError(MissingInputError):
    """No file was named for this; the figure is absent, nothing failed."""


@dataclass(frozen=True)
class Work:
    """Files and settings of an evaluation. Empty means: not given."""

    target: tuple[tuple[str, Path], ...] = ()
    english: tuple[tuple[str, Path], ...] = ()
    """Held-out texts by the names of their sets ("test", "general", ...); see data/text.py for their form."""
    parallel: Path | None = None
    """`english TAB target` lines; or a folder with one file a language, sentence n in line n (as FLORES has it)."""
    languages: tuple[str, str] | None = None
    """For such a folder: names of the English file and of the target's, without their endings ("eng_Latn",
    "deu_Latn")."""
    lexicon_train: Path | None = None
    lexicon_heldout: Path | None = None
    """Lexicon files; they should share no word (`prealign` splits so)."""
    classes_train: Path | None = None
    classes_test: Path | None = None
    """`label TAB text` lines: English to train a classifier on, target text to test it on."""
    nli_train: Path | None = None
    nli_test: Path | None = None
    """Sentence pairs with labels, for the mixed-language matrix: `label TAB premise TAB hypothesis` in English to train
    on; `label TAB premise TAB hypothesis TAB target premise TAB target hypothesis` to test."""
    facts: Path | None = None
    """Questions about invented facts (JSON lines), or the folder that `prealign clone --facts` wrote."""
    prompts_target: tuple[str, ...] = ()
    prompts_english: tuple[str, ...] = ()
    """To be continued by the model."""
    lm_eval_tasks: tuple[str, ...] = ()
    mteb_tasks: tuple[str, ...] = ()
    """Names of tasks of those harnesses."""
    lm_eval_path: Path | None = None
    """Folder with lm-eval tasks of one's own (YAML)."""
    language: str = ""
    """The target language's name ("German")."""
    code: str = ""
    """Its code as in FLORES: ISO 639-3, underscore, ISO 15924 ("deu_Latn")."""
    max_items: int = 1000
    """Most sentence pairs, words, texts or windows of each kind that are read."""
    window_bytes: int = 1024
    """Longest piece of text that is scored in one go, in bytes: no tokenizer sees more context than another."""
    batch_tokens: int = 4096
    seed: int = 0

    def documents(self, language: str, name: str) -> list[str]:
        """The documents of a set of texts. `language` is "target" or "english"."""
        paths = dict(self.target if language == "target" else self.english)
        if name not in paths:
            raise NoDataError(f"no local data: no {language} text {name!r}; give it with --{language}")
        return list(read_documents([paths[name]]))

    def windows(self, language: str, name: str) -> list[tuple[int, str]]:
        """The number of its document and the text of each window of a set, at most `max_items` drawn by `seed`."""
        found = [
            (number, text)
            for number, document in enumerate(self.documents(language, name))
            for text in windows([document], self.window_bytes, sys.maxsize)
        ]
        return self.sample(found)

    def pairs(self) -> list[tuple[str, str]]:
        """(English, target) sentences: at most `max_items`, drawn by `seed`, in the order of the file.

        Raises:
            NoDataError: no parallel text.
            DataError: see `read_parallel`.
        """
        if self.parallel is None:
            raise NoDataError("no local data: no parallel text; give it with --parallel")
        if self.parallel.is_dir() and self.languages is None:
            raise NoDataError(
                f"no local data: {self.parallel} has one file a language; say which with --languages eng_Latn,deu_Latn"
            )
        return self.sample(read_parallel(self.parallel, self.languages))

    def train_pairs(self) -> list[Pair]:
        """The lexicon's training half."""
        if self.lexicon_train is None:
            raise NoDataError("no local data: no training half of a lexicon; give it with --lexicon-train")
        return read_pairs(self.lexicon_train)

    def heldout_pairs(self) -> list[Pair]:
        """The lexicon's held-out half."""
        if self.lexicon_heldout is None:
            raise NoDataError("no local data: no held-out half of a lexicon; give it with --lexicon-heldout")
        return read_pairs(self.lexicon_heldout)

    def classes(self) -> tuple[list[Labelled], list[Labelled]]:
        """English and target texts with labels."""
        if self.classes_train is None or self.classes_test is None:
            raise NoDataError("no local data: no labelled texts; give --classes-train and --classes-test")
        return read_labelled(self.classes_train), read_labelled(self.classes_test)

    def sample(self, items: list[Any]) -> list[Any]:
        """At most `max_items` of some items, drawn by `seed`, in their order."""
        if len(items) <= self.max_items:
            return items
        kept = sorted(random.Random(self.seed).sample(range(len(items)), self.max_items))
        return [items[i] for i in kept]

    def digests(self, fields: tuple[str, ...]) -> dict[str, Any]:
        """What decides the content of some fields: the SHA-256 of files, other values as they are."""
        return {name: _digest(getattr(self, name)) for name in fields}


def work_of(recipe: Recipe, run: Path | None = None) -> Work:
    """The evaluation data of a recipe, and of the run folder that was made from it (by default the recipe's own)."""
    own, folder = recipe.evaluate, run or recipe.run

    def sets(language: str) -> tuple[tuple[str, Path], ...]:
        named = ((name, getattr(recipe.text, f"{name}_{language}")) for name in ("test", "general"))
        return tuple((name, recipe.path(path)) for name, path in named if path)

    def there(path: Path) -> Path | None:
        return path if path.is_file() else None

    return Work(
        target=sets("target"),
        english=sets("english"),
        lexicon_train=there(folder / "lexicon" / "clean.tsv"),
        lexicon_heldout=there(folder / "lexicon" / "heldout.tsv"),
        classes_train=recipe.path(own.transfer_train) if own.transfer_train else None,
        classes_test=recipe.path(own.transfer_test) if own.transfer_test else None,
        facts=recipe.path(own.clka) if own.clka else None,
        prompts_target=recipe.serve.prompts_target,
        prompts_english=recipe.serve.prompts_english,
        language=recipe.language,
        window_bytes=own.window_bytes,
        batch_tokens=own.batch_tokens,
        seed=recipe.seed,
    )


def work_from(recipe: Path | None, run: Path | None, given: dict[str, Any]) -> Work:
    """The data of a recipe's file, if one is named, with what flags give in its place.

    Raises:
        MissingInputError: a file that is named is not there.
        RecipeError: the recipe is wrong.
    """
    work = work_of(load_recipe(recipe), run) if recipe else Work()
    if recipe is None and run is not None:
        halves = (run / "lexicon" / "clean.tsv", run / "lexicon" / "heldout.tsv")
        if all(path.is_file() for path in halves):
            work = dataclasses.replace(work, lexicon_train=halves[0], lexicon_heldout=halves[1])
    work = dataclasses.replace(work, **given)
    if work.max_items < 1:
        raise RecipeError(f"--max-items {work.max_items}: give 1 or more")
    for field in dataclasses.fields(work):
        for path in _paths(getattr(work, field.name)):
            if not path.exists():
                raise MissingInputError(f"{field.name}: {path}: no such file; name one that exists, or leave it out")
    return work


def _paths(value: Any) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    return [path for one in value for path in _paths(one)] if isinstance(value, tuple) else []


def _digest(value: Any) -> Any:
    if isinstance(value, Path):
        if value.is_dir():
            files = [path for path in sorted(value.rglob("*")) if path.is_file()]
            listed = "".join(f"{path.relative_to(value)} {sha256(path)}\n" for path in files)
            return hashlib.sha256(listed.encode()).hexdigest()
        return sha256(value)
    return [_digest(one) for one in value] if isinstance(value, tuple) else value
