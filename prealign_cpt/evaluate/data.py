"""The evaluation data: local files, each optional, their formats, and what is taken of them.

    recipe (held-out texts, questions, prompts) + run folder (lexicon) + flags --data_from--> EvaluationData
    EvaluationData.pairs(), .windows("target", "test"), ...  --> content, or NoDataError: the figure is absent

A reader raises `NoDataError` where no file is named, and the ordinary errors where a named file is wrong. Blank lines
are skipped, but not in a folder of parallel files, where line n translates line n.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.model.bits import windows
from prealign_cpt.recipe.schema import HELD_OUT_SETS, Recipe
from prealign_cpt.run.errors import DataError, MissingInputError, RecipeError
from prealign_cpt.run.manifest import sha256
from prealign_cpt.text.lines import read_lines
from prealign_cpt.text.parallel import parallel_lines
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.stage import held_out_by_source

LANGUAGES = ("target", "english")

Labelled = tuple[str, str]
"""Label and text."""

QUESTIONS = "clka.jsonl"
"""In the folder of a clone."""

QUESTION_LANGUAGES = ("english", "clone")
GROUPS = ("english_only", "clone_only", "both", "none")
"""Where a fact is stated. "none" is the control: its questions can only be guessed."""


class NoDataError(MissingInputError):
    """No file was named for this; the figure is absent, nothing failed."""


@dataclass(frozen=True)
class EvaluationData:
    """Files and settings of an evaluation. Empty means: not given."""

    target: tuple[tuple[str, Path], ...] = ()
    english: tuple[tuple[str, Path], ...] = ()
    """Held-out texts by the names of their sets ("test", "general", ...); see text/reader.py for their form."""
    column: str = "text"
    """Key or column of those that are JSON lines or tables."""
    parallel: Path | None = None
    """`english TAB target` lines; or a folder with one file a language, sentence n in line n (as FLORES has it)."""
    languages: tuple[str, str] | None = None
    """For such a folder: names of the English file and of the target's, without their endings ("eng_Latn",
    "deu_Latn")."""
    lexicon_train: Path | None = None
    lexicon_heldout: Path | None = None
    """Lexicon files; they should share no word (`prealign` splits so)."""
    lexicons: tuple[tuple[str, Path, Path], ...] = ()
    """Of several languages: the name of a source of target text, and the two halves of its own list."""
    classes_train: Path | None = None
    classes_test: Path | None = None
    """`label TAB text` lines: English to train a classifier on, target text to test it on."""
    nli_train: Path | None = None
    nli_test: Path | None = None
    """`label TAB premise TAB hypothesis` lines; the test file has the target's two behind them."""
    facts: Path | None = None
    """Questions about invented facts (JSON lines), or the folder that `prealign clone --facts` wrote."""
    prompts_target: tuple[str, ...] = ()
    prompts_english: tuple[str, ...] = ()
    """To be continued by the model."""
    mixed_prompts: int = 0
    """Held-out beginnings of each language that are continued, to count letters of the other's script; 0: none."""
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
    """Most sentence pairs, words, texts or rows of each kind that are read."""
    window_bytes: int = 1024
    """Longest piece of text that is scored in one go, in bytes: no tokenizer sees more context than another."""
    max_bytes: int = 100_000
    """Of each held-out text, so many bytes are scored; a recipe has its own `evaluate.max_bytes`."""
    batch_tokens: int = 4096
    seed: int = 0

    def documents(self, language: str, name: str) -> list[str]:
        """The documents of a set of texts. `language` is "target" or "english"."""
        paths = dict(self.target if language == "target" else self.english)
        if name not in paths:
            raise NoDataError(f"no local data: no {language} text {name!r}; give it with --{language}")
        return list(read_documents([paths[name]], self.column))

    def main_documents(self, language: str) -> list[str]:
        """The documents of the set "test", or else of the first set."""
        names = [name for name, _ in (self.target if language == "target" else self.english)]
        return self.documents(language, "test" if "test" in names or not names else names[0])

    def windows(self, language: str, name: str) -> list[tuple[int, str]]:
        """The number of its document and the text of each window of the first `max_bytes` bytes of a set, the windows
        on which a run is validated (`model.bits.held_out`)."""
        found: list[tuple[int, str]] = []
        left = self.max_bytes
        for number, document in enumerate(self.documents(language, name)):
            texts = windows([document], self.window_bytes, left)
            found += [(number, text) for text in texts]
            left -= sum(len(text.encode()) for text in texts)
        return found

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

    def lexicon(self) -> tuple[list[Pair], list[Pair]]:
        """The training half and the held-out half."""
        if self.lexicon_train is None or self.lexicon_heldout is None:
            raise NoDataError("no local data: no split lexicon; give --lexicon-train and --lexicon-heldout")
        return read_pairs(self.lexicon_train), read_pairs(self.lexicon_heldout)

    def by_language(self) -> Iterator[tuple[str, "EvaluationData"]]:
        """Of several languages, each by the name of its source: with its own word list and held-out text alone."""
        for name, train, heldout in self.lexicons:
            texts = tuple(one for one in self.target if one[0] == f"test/{name}") or self.target
            yield (
                name,
                dataclasses.replace(self, lexicon_train=train, lexicon_heldout=heldout, target=texts, lexicons=()),
            )

    def classes(self) -> tuple[list[Labelled], list[Labelled]]:
        """English and target texts with labels."""
        if self.classes_train is None or self.classes_test is None:
            raise NoDataError("no local data: no labelled texts; give --classes-train and --classes-test")
        return self.sample(read_labelled(self.classes_train)), self.sample(read_labelled(self.classes_test))

    def questions(self) -> "list[Question]":
        """Questions about invented facts."""
        if self.facts is None:
            raise NoDataError("no local data: no questions about facts; give them with --facts")
        return read_questions(self.facts / QUESTIONS if self.facts.is_dir() else self.facts)

    def sample(self, items: list[Any]) -> list[Any]:
        """At most `max_items` of some items, drawn by `seed`, in their order."""
        if len(items) <= self.max_items:
            return items
        kept = sorted(random.Random(self.seed).sample(range(len(items)), self.max_items))
        return [items[i] for i in kept]

    def digests(self, fields: tuple[str, ...]) -> dict[str, Any]:
        """What decides the content of some fields: the SHA-256 of files, other values as they are."""
        return {name: _digest(getattr(self, name)) for name in fields}


def data_of(recipe: Recipe, lexicon: Path) -> EvaluationData:
    """The evaluation data of a recipe, and the folder of its split lexicon."""
    settings = recipe.evaluate

    def sets(language: str) -> tuple[tuple[str, Path], ...]:
        found = [(name, recipe.held_out(name, language)) for name in HELD_OUT_SETS]
        apart = ((f"test/{name}", path) for name, path in held_out_by_source(recipe, "test", language).items())
        return (*((name, path) for name, path in found if path), *apart)

    def optional(path: str) -> Path | None:
        return recipe.path(path) if path else None

    halves = [lexicon / f"{name}.tsv" for name in ("clean", "heldout")]
    train, heldout = halves if all(path.is_file() for path in halves) else (None, None)
    listed = [name for name, _, _ in recipe.word_lists()]
    apart = [(name, lexicon / f"clean.{name}.tsv", lexicon / f"heldout.{name}.tsv") for name in listed]
    return EvaluationData(
        target=sets("target"),
        english=sets("english"),
        column=recipe.text.column,
        lexicon_train=train,
        lexicon_heldout=heldout,
        lexicons=tuple(one for one in apart if one[1].is_file() and one[2].is_file()),
        classes_train=optional(settings.transfer_train),
        classes_test=optional(settings.transfer_test),
        facts=optional(settings.clka),
        prompts_target=recipe.serve.prompts_target,
        prompts_english=recipe.serve.prompts_english,
        mixed_prompts=settings.mixed_prompts,
        language=recipe.language,
        window_bytes=settings.window_bytes,
        max_bytes=settings.max_bytes,
        batch_tokens=settings.batch_tokens,
        seed=recipe.seed,
    )


def data_from(recipe: Recipe | None, run: Path | None, flags: dict[str, Any]) -> EvaluationData:
    """The data of a recipe, if there is one, with what flags give in its place.

    Args:
        run: the folder that has the split lexicon; None: the recipe's own.

    Raises:
        MissingInputError: a file that is named is not there.
        RecipeError: a number out of its bounds.
    """
    data = data_of(recipe, (run or recipe.run) / "lexicon") if recipe else EvaluationData()
    data = dataclasses.replace(data, **flags)
    for name in ("max_items", "max_bytes", "window_bytes"):
        if getattr(data, name) < 1:
            raise RecipeError(f"--{name.replace('_', '-')} {getattr(data, name)}: give 1 or more")
    for field in dataclasses.fields(data):
        for path in _paths(getattr(data, field.name)):
            if not path.exists():
                raise MissingInputError(
                    f"{field.name}: {path}: no such file; name one that exists, or the recipe whose files are meant "
                    "with --recipe"
                )
    return data


def read_parallel(path: Path, languages: tuple[str, str] | None) -> list[tuple[str, str]]:
    """(English, target) sentences, NFC, in the order of the file.

    Args:
        languages: for a folder, the names of its English file and of its target's, without their endings.

    Raises:
        DataError: a line without its counterpart, or an empty side; it is named. Or no line at all.
        MissingInputError: no such file.
    """
    if languages and path.is_dir():
        pairs = _of_two_files(*(_language_file(path, name) for name in languages))
    else:
        pairs = [
            (normalize("NFC", one), normalize("NFC", other)) for one, other in _columns(path, ("english", "target"))
        ]
    if not pairs:
        raise DataError(f"{path}: no sentence pair in it; expected `english TAB target` lines")
    return pairs


def read_labelled(path: Path) -> list[Labelled]:
    """(label, text) of each line; the text may hold tabs.

    Raises:
        DataError: a line has no tab, no label or no text; it is named.
        MissingInputError: the file is not there.
    """
    return [(label, text) for label, text in _columns(path, ("label", "text"), joined=True)]


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, without blank lines."""
    return tuple(line for _, line in read_lines(path) if line.strip())


@dataclass(frozen=True)
class Question:
    """One line of a questions file, which `prealign clone --facts` writes and clka.py asks."""

    group: str
    """Where the fact is stated; see GROUPS."""
    language: str
    """Of the question: "english" or "clone"."""
    prompt: str
    neutral: str
    """The prompt without the name."""
    candidates: tuple[str, ...]
    answer: str


def read_questions(path: Path) -> list[Question]:
    """The questions of a file of JSON objects, one a line, with the keys of `Question`.

    Raises:
        DataError: a line is not such an object; it is named.
        MissingInputError: the file is not there.
    """
    found = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            content = json.loads(line)
            texts = [content[key] for key in ("group", "language", "prompt", "neutral", "answer")]
            candidates = content["candidates"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}: not a question ({type(error).__name__}: {error}); `prealign clone` writes such files"
            ) from error
        if not isinstance(candidates, list) or not all(isinstance(text, str) and text for text in texts + candidates):
            raise DataError(f"{where}: a field is not text; candidates must be a list of strings")
        group, language, prompt, neutral, answer = texts
        if group not in GROUPS or language not in QUESTION_LANGUAGES:
            raise DataError(
                f"{where}: group {group!r} or language {language!r} is unknown; groups are {', '.join(GROUPS)}, "
                f"languages {', '.join(QUESTION_LANGUAGES)}"
            )
        if candidates.count(answer) != 1 or len(set(candidates)) != len(candidates) or len(candidates) < 2:
            raise DataError(f"{where}: the answer must be one of at least two different candidates")
        found.append(Question(group, language, prompt, neutral, tuple(candidates), answer))
    if not found:
        raise DataError(f"{path}: no questions in it; `prealign clone --facts` writes them")
    return found


def _columns(path: Path, names: tuple[str, ...], joined: bool = False) -> list[list[str]]:
    """The columns of each line; `joined`: what stands behind the last tab that is needed is one column."""
    found = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t", len(names) - 1 if joined else -1)]
        if len(parts) != len(names) or not all(parts):
            raise DataError(f"{path}:{number}: expected `{' TAB '.join(names)}`, with text in every column")
        found.append(parts)
    return found


def _language_file(folder: Path, name: str) -> Path:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    found = [path for path in files if path.name.split(".")[0] == name]
    if len(found) != 1:
        there = ", ".join(sorted({path.name.split(".")[0] for path in files})) or "no file"
        raise MissingInputError(f"{folder}: {len(found)} files for {name!r}; there are {there}; see --languages")
    return found[0]


def _of_two_files(english: Path, target: Path) -> list[tuple[str, str]]:
    found = []
    for number, one, other in parallel_lines(english, target):
        if not (one and other):
            blank = target if one else english
            raise DataError(f"{blank}:{number}: a blank line; parallel files have a sentence in every line")
        found.append((one, other))
    return found


def _paths(value: Any) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    return [path for part in value for path in _paths(part)] if isinstance(value, tuple) else []


def _digest(value: Any) -> Any:
    if isinstance(value, Path):
        if value.is_dir():
            files = [path for path in sorted(value.rglob("*")) if path.is_file()]
            listed = "".join(f"{path.relative_to(value)} {sha256(path)}\n" for path in files)
            return hashlib.sha256(listed.encode()).hexdigest()
        return sha256(value)
    return [_digest(part) for part in value] if isinstance(value, tuple) else value
