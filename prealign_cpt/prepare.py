"""What is made before training, in one process: lexicon, texts, vocabulary, packed text, the model with its new rows.

    recipe --check_inputs--> base  --> RUN/lexicon  --> RUN/text  --> RUN/vocab  --> RUN/data, RUN/init

After it everything that alignment and training read lies in the run folder.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import AutoTokenizer

from prealign_cpt.align.initialize import build_init
from prealign_cpt.data.build import build_data, pack_shard, packing_tasks
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.lexicon.stage import WordList, build_lexicon, no_lexicon
from prealign_cpt.model.base import from_wrapper, resolve_base
from prealign_cpt.model.load import check_isolation, check_structure, check_tokenizer, load_whole
from prealign_cpt.model.tokens import end_token_id, start_token_id
from prealign_cpt.model.world import choose_device
from prealign_cpt.recipe.schema import SIDES, Recipe
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.folder import Run, say
from prealign_cpt.run.manifest import sha256
from prealign_cpt.run.tasks import each, num_cores
from prealign_cpt.stages import READS, REMEDIES, inputs
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.stage import build_text, entries_of
from prealign_cpt.vocab.build import build_vocab

TASKS = ".tasks-"
"""Begins the names of folders with what is done of a stage that works by task."""


def task_folder(run: Path, stage: str, made_from: dict[str, object]) -> Path:
    """Where the tasks of a stage write, until all are done."""
    return run / f"{TASKS}{stage}-{hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]}"


def pack_share(recipe: Recipe, share: tuple[int, int], workers: int = 0) -> None:
    """Pack every Nth shard of text from number K on, beside others who pack the rest; then `prepare` has only to put
    them together.

    Args:
        share: K and N.

    Raises:
        MissingInputError: the text or the vocabulary is not there yet.
    """
    folders = {name: recipe.run / name for name in READS}
    for name in ("lexicon", "text", "vocab"):
        if not folders[name].is_dir():
            raise MissingInputError(
                f"{folders[name]}: not there yet; make it first: prealign prepare RECIPE --skip data,init"
            )
    base, pairs = resolve_base(recipe.base.model), read_pairs(folders["lexicon"] / "clean.tsv")
    tasks = packing_tasks(recipe, base, folders["vocab"], pairs)
    own = {name: task for i, (name, task) in enumerate(tasks.items()) if i % share[1] == share[0]}
    made_from = inputs("data", recipe, Digests(recipe.run / "digests.json"), folders)
    each(pack_shard, own, task_folder(recipe.run, "data", made_from), workers or num_cores(), "data")
    say(f"data: packed {len(own)} of {len(tasks)} shards")


def prepare(run: Run, recipe: Recipe, skip: tuple[str, ...] = (), workers: int = 0) -> None:
    """Make the stages before the alignment that are not there yet.

    Args:
        skip: stages not to make, of "data" and "init"; with "lexicon", none but the text.
        workers: processes that read and pack text; 0: one for each core.

    Raises:
        as `check_inputs`, `Run.stage` and the stages.
    """
    folders = {name: run.folder / name for name in READS}
    workers = workers or num_cores()
    base = None if "lexicon" in skip else check_inputs(recipe, run.digests.sha256, skip)

    def made_from(stage: str) -> dict[str, object]:
        return inputs(stage, recipe, run.digests, folders)

    def by_task(stage: str, fill: Callable[[Path, Path, int], None]) -> None:
        """A stage that goes on where it was stopped."""
        scratch = task_folder(run.folder, stage, made_from(stage))
        run.stage(stage, made_from(stage), lambda out: fill(out, scratch, workers))
        for rest in run.folder.glob(f"{TASKS}{stage}-*"):
            shutil.rmtree(rest)

    if base is not None:
        run.stage("lexicon", made_from("lexicon"), lambda out: split_lexicon(recipe, out))
    by_task("text", partial(build_text, recipe))
    if base is None:
        return
    run.stage("vocab", made_from("vocab"), lambda out: build_vocab(recipe, base, out))
    pairs = read_pairs(folders["lexicon"] / "clean.tsv")
    if "data" not in skip:
        by_task("data", partial(build_data, recipe, base, folders["vocab"], pairs))
    if "init" not in skip:
        device = choose_device(recipe.device)
        run.stage("init", made_from("init"), lambda out: build_init(recipe, base, folders["vocab"], pairs, out, device))


def check_inputs(recipe: Recipe, digest_of: Callable[[Path], str] = sha256, skip: tuple[str, ...] = ()) -> Path:
    """Look at everything the recipe names before any work is done; return the base model's folder.

    Raises:
        MissingInputError, DataError, RecipeError: an input is not there or not usable; it is named.
    """
    base = resolve_base(recipe.base.model)
    if taken := from_wrapper(base):
        say(f"base.model: {taken}")
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    start_token_id(tokenizer, recipe)
    end_token_id(tokenizer, recipe)
    check_tokenizer(base, tokenizer)
    check_structure(base)
    if not (recipe.run / "vocab").exists():  # its weights, once before they are needed: that may be many gigabytes
        check_isolation(load_whole(base))
    sources, held_out = [source for side in SIDES for source in recipe.sources(side)], recipe.named_held_out()
    found = [entry for source in sources for entry in entries_of(recipe, source)]
    for entry in found:
        next(entry.documents())
    for path in held_out:
        next(read_documents([path], recipe.text.column))
    for name, given, _ in recipe.word_lists():
        key, path = "lexicon.path" if given == recipe.lexicon.path else f"text.{name}.lexicon", recipe.path(given)
        if not path.is_file():
            raise MissingInputError(f"{key}: {path}: no such file; {REMEDIES['lexicon.path']}")
    for path in recipe.question_files():
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file; see evaluate.clka and evaluate.transfer_* of the recipe")
    if recipe.align.rows and "init" not in skip and not recipe.path(recipe.align.rows).is_file():
        path = recipe.path(recipe.align.rows)
        raise MissingInputError(f"align.rows: {path}: no such file; write it first, or choose another align.init")
    evaluated = {digest_of(path) for path in held_out}
    for path in (path for entry in found for path in entry.files):
        if digest_of(path) in evaluated:
            raise RecipeError(f"{path}: stands among the training texts and among the held-out ones; choose one")
    return base


def split_lexicon(recipe: Recipe, out: Path) -> None:
    """Fill `out` with the recipe's lexicon, split.

    Raises:
        as `build_lexicon`.
    """
    settings = recipe.lexicon
    lists = [WordList(recipe.path(path), language, name) for name, path, language in recipe.word_lists()]
    if not lists:
        no_lexicon(out)
        say("lexicon: none given: no word is switched, no contrast is trained, and word retrieval is not measured")
        return
    report = build_lexicon(
        lists, settings.format, settings.heldout, recipe.seed, out, settings.max_translations, settings.swapped
    )
    for name, facts in report.get("lists", {"": report}).items():
        of = f" of {name}" if name else ""
        say(f"lexicon{of} ({facts['format']}): {facts['pairs']} pairs, dropped {facts['dropped'] or 'none'}")
    say(f"lexicon: {report['train']['pairs']} training pairs, {report['heldout']['pairs']} held out")
