"""`prealign audit`: tasks over all training text, what they found put together, and the clean copy.

RECIPE.toml: the files that it names, and the held-out texts that it names
RUN:         the text as the run reads it (RUN/text), and all of its held-out texts
    --tasks--> read.py --> RUN/audit/audit.json (docs/audit.md), table   --filter--> OUT/SOURCE/00000.jsonl
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

from transformers import AutoTokenizer

from prealign_cpt import __version__
from prealign_cpt.audit.duplicates import write_clean
from prealign_cpt.audit.gather import Found, exposure, gathered
from prealign_cpt.audit.judge import Side, checked, scripts_of
from prealign_cpt.audit.overlap import Sets
from prealign_cpt.audit.pairs import Pairs
from prealign_cpt.audit.read import Task, read
from prealign_cpt.audit.table import text as told
from prealign_cpt.evaluate.exposure import AUDIT, FORMAT
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.model.base import resolve_base
from prealign_cpt.prepare import split_lexicon, task_folder
from prealign_cpt.recipe.file import recipe_of
from prealign_cpt.recipe.schema import HELD_OUT_SETS, SIDES, Recipe
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import MissingInputError, StorageError
from prealign_cpt.run.folder import alone
from prealign_cpt.run.manifest import atomic_write, read_manifest
from prealign_cpt.run.tasks import each, num_cores, worth
from prealign_cpt.stages import of_recipe
from prealign_cpt.text.languages import language_of
from prealign_cpt.text.lines import read_lines
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.sources import Entry
from prealign_cpt.text.stage import SHARD_BYTES, entries_of, shard_path, text_report

SAMPLE = 1_000
"""Training documents that show the scripts of a side without held-out text."""

HeldOut = dict[tuple[str, str], list[str]]
"""Documents by side and set."""


def audit(given: Path, tests: Iterable[Path] = (), clean: Path | None = None, workers: int = 0) -> str:
    """Audit a recipe or a run; write `audit/audit.json` into its run folder, and return the table to print.

    Args:
        tests: further files to look for in the training text, line by line; tabs part their columns.
        clean: folder to make, with a clean copy of the text.
        workers: processes; 0: one for each core.

    Raises:
        MissingInputError, DataError, RecipeError: a text, the recipe or the run cannot be read.
        StorageError: something cannot be written, or `clean` is there.
        BusyError: another audit works in this run folder.
    """
    of_run = given.is_dir()
    if of_run and not (given / "text").is_dir():
        raise MissingInputError(f"{given}: no run that has its text; name one, or a recipe")
    if clean and clean.exists():
        raise StorageError(f"{clean}: is there already; name a folder that is to be made")
    recipe = recipe_of(given, auto=True)
    found, held_out = _entries(recipe, of_run), _held_out(recipe, of_run)
    sides, judged = _sides(recipe, held_out, found)
    questions = recipe.evaluate.transfer_test
    sets = {f"{side}/{name}": documents for (side, name), documents in held_out.items()}
    sets |= {str(path): _lines(path) for path in [*([recipe.path(questions)] if questions else []), *tests]}
    asked = Sets()
    for name, documents in sets.items():
        asked.add(name, documents)
    grown = recipe.run / "vocab"
    tokenizer = grown if grown.is_dir() else resolve_base(recipe.base.model)
    with alone(recipe.run / "audit", "audit.lock", "audit"):
        digests = Digests(recipe.run / "digests.json")
        text = read_manifest(given / "text")["about"]["inputs"] if of_run else of_recipe("text", recipe, digests)
        digests.save()
        pairs = Pairs(_held_out_pairs(recipe))
        content = hashlib.sha256(asked.sought.hashes.tobytes() + repr([pairs.asked, sides]).encode()).hexdigest()
        made_from = {"text": text, "run": of_run, "clean": bool(clean), "rest": content, "tokenizer": str(tokenizer)}
        scratch = task_folder(recipe.run, "audit", made_from)
        task = partial(Task, tokenizer=_tokenizer_file(tokenizer, scratch), sought=asked.sought, pairs=pairs)
        column = recipe.text.column if clean else ""
        tasks = {
            name: task(entry, sides[kind], column="" if kind == "parallel" else column)
            for name, (kind, entry) in found.items()
        }
        size = sum(path.stat().st_size for _, entry in found.values() for path in entry.files)
        results = each(read, tasks, scratch, worth(workers or num_cores(), size), "audit")
        report: dict[str, Any] = {
            **{"format": FORMAT, "version": __version__, "of": str(given), "text": text, "tokenizer": str(tokenizer)},
            **{"language": recipe.language, "judged": judged},
            **gathered(found, results, scratch, asked, pairs, {name: (sides, texts) for name, texts in sets.items()}),
        }
        report["exposure"] = exposure(report)
        if clean:
            report["clean"] = write_clean(clean, [name for name in tasks if tasks[name].column], results, scratch)
        atomic_write(recipe.run / AUDIT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(scratch)
    return f"{told(report)}\nMore in {recipe.run / AUDIT}"


def _tokenizer_file(folder: Path, scratch: Path) -> Path:
    """The `tokenizer.json` of a model's folder, written to `scratch` where it has none but a sentencepiece model."""
    if (path := folder / "tokenizer.json").is_file():
        return path
    scratch.mkdir(exist_ok=True)
    AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.save(str(scratch / path.name))
    return scratch / path.name


def _entries(recipe: Recipe, of_run: bool) -> Found:
    """What each task reads: "english", "target" or "parallel" text."""
    found: Found = {}
    for side in SIDES:
        shards = {one["name"]: one["shards"] for one in text_report(recipe, side)["sources"]} if of_run else {}
        for source in recipe.sources(side):
            kind = "parallel" if source.target and source.english else side
            if of_run:
                paths = (shard_path(recipe, source.name, shard) for shard, *_ in shards[source.name])
                groups = [Entry(source.name, (path,), None, recipe.text.column) for path in paths]
            else:
                groups = [group for entry in entries_of(recipe, source) for group in entry.groups(SHARD_BYTES)]
            found |= {f"{source.name}/{n:05}": (kind, group) for n, group in enumerate(groups)}
    return found


def _held_out(recipe: Recipe, of_run: bool) -> HeldOut:
    """The held-out texts; of a recipe those that it names, for the others are still among its training text."""
    keys = [(side, name) for side in SIDES for name in HELD_OUT_SETS]
    paths = {
        (side, name): recipe.held_out(name, side)
        for side, name in keys
        if of_run or getattr(recipe.text, f"{name}_{side}")
    }
    return {key: list(read_documents([path], recipe.text.column)) for key, path in paths.items() if path}


def _lines(path: Path) -> list[str]:
    """The lines of a file, or of those of a folder; where tabs part columns, each column by itself."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    lines = (normalize("NFC", line) for file in files for _, line in read_lines(file, None))
    return [column for line in lines for column in line.split("\t") if column.strip()]


def _sides(recipe: Recipe, held_out: HeldOut, found: Found) -> tuple[dict[str, Side], dict[str, Any]]:
    """What each kind of text should be in, and how well that is told."""
    spoken = [language_of(name).short or name.lower() for name in recipe.languages]
    own = {"english": ("en",), "target": tuple(dict.fromkeys(spoken))}
    texts = {side: [text for (of, _), some in held_out.items() if of == side for text in some] for side in SIDES}
    training = {side: (entry.documents() for kind, entry in found.values() if kind == side) for side in SIDES}
    sample = {side: texts[side] or list(islice(chain.from_iterable(training[side]), SAMPLE)) for side in SIDES}
    english = scripts_of(sample["english"]) or ("Latin",)
    target = scripts_of(sample["target"], beside=english[0])
    sides = {
        "english": Side(own["english"], english, spoken[0], target),
        "target": Side(own["target"], target, "en", english),
    }
    judged = {}
    for side in SIDES:
        sides[side], judged[side] = checked(sides[side], texts[side])
        judged[side] |= {"codes": own[side], "scripts": sides[side].scripts}
    both = all(side.identified for side in sides.values())
    sides["parallel"] = Side((*own["target"], "en"), tuple({*english, *target}), identified=both)
    return sides, judged


def _held_out_pairs(recipe: Recipe) -> list[Pair]:
    """The half of the lexicon that is kept for evaluation: the run's, or what it would be."""
    path = recipe.run / "lexicon" / "heldout.tsv"
    if path.is_file() or not recipe.word_lists():
        return read_pairs(path) if path.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        split_lexicon(recipe, Path(folder))
        return read_pairs(Path(folder) / "heldout.tsv")
