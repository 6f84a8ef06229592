"""The whole run: every stage that is not done yet, in order.

    lexicon -> vocab -> align -> data  (rank 0)   ->   cpt  (all ranks)   ->   export -> eval  (rank 0)

While rank 0 prepares, the others wait for a key in the store, not in a collective, so preparing may take any time.
Another key calls them to the training stage of the alignment, after which they wait again.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.align.build import INVITATION, build_align, join_align
from prealign_cpt.align.init.subword import old_pieces
from prealign_cpt.data.build import build_data, read_mixture
from prealign_cpt.data.codeswitch import token_texts
from prealign_cpt.evaluate.stage import build_eval
from prealign_cpt.export import Probe, build_export
from prealign_cpt.inputs import base_digest, check_inputs, decisive, given_tokenizer, parallel_files, rows_files, values
from prealign_cpt.lexicon.stage import build_lexicon, read_pairs
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.bits import held_out
from prealign_cpt.model.load import choose_device
from prealign_cpt.model.tokens import num_ids, start_token_id
from prealign_cpt.recipe.file import as_dict
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import signals
from prealign_cpt.run.errors import MissingInputError, PrealignError, RecipeError, StorageError
from prealign_cpt.run.folder import ORDER, Run, changes, file_digests, folder_digest, say
from prealign_cpt.run.manifest import atomic_write, sha256
from prealign_cpt.train.checkpoint import latest
from prealign_cpt.train.failure import first_failure
from prealign_cpt.train.loop import train
from prealign_cpt.train.shard import World, process_group, sharded
from prealign_cpt.vocab.build import build_vocab


def run_all(
    recipe: Recipe,
    redo: str | None = None,
    until: str = ORDER[-1],
    borrow: Path | None = None,
    accept: tuple[str, ...] = (),
) -> None:
    """Run the stages up to `until` on the ranks that torchrun started, or on one.

    The run's state, with the exit code that torchrun flattens to 1, is in `run_state.json`.

    Args:
        redo, borrow, accept: see `Run`.
    """
    device = choose_device(recipe.device)
    with process_group(device) as world:
        run: Run | None = None
        try:
            _agree(recipe, world)
            if world.rank == 0:
                run = Run(recipe, redo, borrow, accept)
                run.state("running")
                with _all_cores(device):
                    prepare(run, world, min(until, "data", key=ORDER.index))
                world.store.set("prepared", "yes")
            else:
                _follow(recipe, world)
            if ORDER.index(until) >= ORDER.index("cpt"):
                train_stage(recipe, world, accept)
            if run is not None:
                run.describe()
                with _all_cores(device):
                    finish(run, device, until)
                run.state("finished", exit_code=0)
        except BaseException as error:
            signals.ignore()  # torchrun signals the ranks that are left when one has ended
            cause = first_failure(error, world)
            if run is not None:
                stopped = isinstance(cause, signals.StoppedError)
                code = cause.exit_code if isinstance(cause, PrealignError) else 70
                with suppress(StorageError):  # the error itself matters more
                    run.state("stopped" if stopped else "failed", exit_code=code, reason=str(cause))
            if world.rank == 0:
                with suppress(RuntimeError):  # the launcher is gone, and the store with it
                    world.store.set("prepared", "no")
            if cause is not error:
                raise cause from error
            raise
        finally:
            if run is not None:
                run.close()


def prepare(run: Run, world: World, until: str) -> None:
    """The stages before training, in this process alone but for the training stage of the alignment."""
    recipe = run.recipe
    base = check_inputs(recipe)
    texts = recipe.paths(recipe.text.target + recipe.text.english)
    lexicon_path = recipe.path(recipe.lexicon.path)
    lexicon = run.stage(
        "lexicon",
        {"file": sha256(lexicon_path)} | values(recipe, "lexicon", "seed"),
        lambda out: _fill_lexicon(recipe, lexicon_path, out),
    )
    if until == "lexicon":
        return
    of_base = base_digest(base)
    vocab = run.stage(
        "vocab",
        {"base": of_base, "texts": file_digests(texts)} | values(recipe, "vocab") | given_tokenizer(recipe),
        lambda out: build_vocab(recipe, base, out),
    )
    if until == "vocab":
        return
    pairs, heldout = read_pairs(lexicon / "clean.tsv"), read_pairs(lexicon / "heldout.tsv")
    align = run.stage(
        "align",
        {
            "base": of_base,
            "lexicon": folder_digest(lexicon),
            "vocab": folder_digest(vocab),
            "texts": file_digests(texts + recipe.evaluation_files() + recipe.question_files() + parallel_files(recipe)),
            "rows": file_digests(rows_files(recipe)),
        }
        | values(recipe, "base", "align", "evaluate", "seed", "train.precision", "data.mixed_tokenization"),
        lambda out: build_align(recipe, base, vocab, pairs, heldout, world.device, out, world),
    )
    if until == "align":
        return
    run.stage(
        "data",
        {
            "tokenizer": sha256(align / "tokenizer.json"),
            "lexicon": folder_digest(lexicon),
            "texts": file_digests(texts),
        }
        | values(
            recipe, "data", "codeswitch", "base.start_token", "base.end_token", "seed", "train.steps", "train.sequences"
        ),
        lambda out: build_data(recipe, base, align, pairs, out),
    )


def train_stage(recipe: Recipe, world: World, accept: tuple[str, ...] = ()) -> None:
    """Continual pretraining on all ranks; skipped if it is finished."""
    folder = recipe.run / "cpt"
    inputs = {
        "align": folder_digest(recipe.run / "align"),
        "data": folder_digest(recipe.run / "data"),
        **decisive(recipe),
    }
    summary = folder / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["inputs"] == inputs:
        if world.rank == 0:
            say("cpt: done before, kept")
        return
    folder.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(recipe.run / "align", local_files_only=True)
    mixture = read_mixture(recipe, recipe.run / "data")
    valid = held_out(recipe, "valid", tokenizer)
    if world.rank == 0:
        say(f"cpt: {recipe.train.steps} steps on {world.size} rank(s), {world.device.type}, {recipe.train.precision}")
    own = recipe.train
    module = sharded(recipe.run / "align", world, own.precision, own.checkpoint_activations, own.compile, own.replicas)
    module.soft_weight = recipe.codeswitch.soft_weight if recipe.codeswitch.labels == "soft" else 0.0
    start = start_token_id(tokenizer, recipe)
    new_tokens = json.loads((recipe.run / "vocab" / "report.json").read_text())["new_tokens"]
    first_new = num_ids(tokenizer) - new_tokens if new_tokens else None
    pieces = _pieces(recipe, tokenizer, new_tokens) if new_tokens and own.composition_lr else None
    result = train(module, mixture, valid, own, start, folder, inputs, world, first_new, pieces, accept)
    if world.rank == 0:
        atomic_write(folder / "summary.json", json.dumps({**result, "inputs": inputs}, indent=1))
        say(f"cpt: done, {result['tokens']} tokens at {result['tokens_per_second']:,.0f} tokens/s")


def _pieces(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, new_tokens: int) -> list[list[int]]:
    """How the base tokenizer spells the new tokens."""
    base = AutoTokenizer.from_pretrained(resolve_base(recipe.base.model), local_files_only=True)
    return old_pieces(token_texts(tokenizer)[-new_tokens:], base, tokenizer)


def finish(run: Run, device: torch.device, until: str) -> None:
    """The stages after training, in this process alone."""
    recipe, folder = run.recipe, run.folder
    if ORDER.index(until) < ORDER.index("export"):
        return
    summary = json.loads((folder / "cpt" / "summary.json").read_text())
    step = latest(folder / "cpt", summary["inputs"])
    if step is None or int(step.name.removeprefix("step-")) != recipe.train.steps:
        raise MissingInputError(f"{folder / 'cpt'}: the last checkpoint is not sound; start again with --redo cpt")
    export = run.stage(
        "export",
        {"checkpoint": folder_digest(step), "align": folder_digest(folder / "align")},
        lambda out: build_export(
            recipe, folder / "align", step, Probe(**summary["probe"]), out, "export" in run.accept
        ),
    )
    if until == "export":
        return
    run.stage(
        "eval",
        {
            "model": folder_digest(export),
            "texts": file_digests(recipe.evaluation_files() + recipe.question_files()),
        }
        | values(recipe, "evaluate", "base.start_token", "seed"),
        lambda out: build_eval(
            recipe,
            resolve_base(recipe.base.model),
            folder / "align",
            export,
            folder / "lexicon",
            out,
            device,
        ),
    )


def _fill_lexicon(recipe: Recipe, path: Path, out: Path) -> None:
    own = recipe.lexicon
    report = build_lexicon(path, own.format, own.heldout, recipe.seed, out, own.max_translations)
    say(
        f"lexicon: {report['train']['pairs']} training pairs, {report['heldout']['pairs']} held out, "
        f"dropped {report['dropped'] or 'none'}"
    )


def _agree(recipe: Recipe, world: World) -> None:
    """Compare the recipe with that of rank 0, whose file may be another on another node.

    Raises:
        RecipeError: they differ; the keys are named.
    """
    text = json.dumps(as_dict(recipe))
    if world.rank == 0:
        world.store.set("recipe", text)
    elif (first := world.store.get("recipe").decode()) != text:
        told = ", ".join(changes(json.loads(first), json.loads(text)))
        raise RecipeError(f"the recipe here is not that of rank 0 ({told}); give every node the same file and flags")


class _all_cores:  # noqa: N801
    """torchrun gives every rank one thread; while rank 0 works alone it may have them all."""

    def __init__(self, device: torch.device) -> None:
        self._threads = torch.get_num_threads()
        self._wanted = len(os.sched_getaffinity(0)) if device.type == "cpu" else self._threads

    def __enter__(self) -> None:
        torch.set_num_threads(self._wanted)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads)


def _follow(recipe: Recipe, world: World) -> None:
    """What the other ranks do while rank 0 prepares: wait, and take part in the alignment when they are called."""
    failure = "rank 0 could not prepare the run; its message says why"
    joined = False
    while not world.store.check(["prepared"]):
        if not joined and world.store.check([INVITATION]):
            joined = True
            try:
                join_align(recipe, world)
            except RuntimeError as error:  # a collective that rank 0 left; it says so a moment later
                time.sleep(1.0)
                if world.store.check(["prepared"]):
                    raise signals.StoppedError(failure) from error
                raise
        time.sleep(0.5)
    if world.store.get("prepared") != b"yes":
        raise signals.StoppedError(failure)
