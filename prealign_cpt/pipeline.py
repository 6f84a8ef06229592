"""Which stage follows which, and in which process.

    one process    prepare --> align --> train --> export --> eval
    torchrun       rank 0: prepare (a child) --> all ranks: align, train --> rank 0: export, eval (children)
    prealign run   each of them a child; align and train on as many ranks as are asked for

What one stage hands to the next lies in the run folder. The ranks join their group when rank 0 has everything prepared,
so preparing may take any time and nobody waits for it in a collective.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prealign_cpt.recipe.file import anywhere, as_toml
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import launch
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.folder import ORDER, Run, ended
from prealign_cpt.run.manifest import NAME as MANIFEST
from prealign_cpt.run.manifest import read_manifest, verify
from prealign_cpt.stages import READS, inputs, of_recipe, with_dependents
from prealign_cpt.train.trackers import check_installed
from prealign_cpt.training import on_ranks, train_from

if TYPE_CHECKING:
    from prealign_cpt.model.world import World

PARTS = {
    "prepare": ("lexicon", "text", "vocab", "data", "init"),
    "align": ("align",),
    "train": ("train",),
    "export": ("export",),
    "eval": ("eval",),
}
"""The commands, in order, and the stages that each makes."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A recipe as it was asked for on the command line."""

    path: Path
    flags: tuple[str, ...] = ()
    """Recipe keys."""
    redo: str | None = None
    reuse: Path | None = None
    accept: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    """Stages that are not prepared."""
    workers: int = 0
    """Processes that read and pack text; 0: one for each core."""

    def child(self, part: str) -> list[str]:
        """Arguments that make a part in a process of its own."""
        options = ["--skip", ",".join(self.skip)] if self.skip and part == "prepare" else []
        options += ["--workers", str(self.workers)] if self.workers and part == "prepare" else []
        options += ["--reuse", str(self.reuse)] if self.reuse else []
        options += ["--accept", ",".join(self.accept)] if self.accept else []
        return [part, str(self.path), *self.flags, *options]


def run_parts(recipe: Recipe, command: Command, until: str = "eval", num_processes: int | None = None) -> None:
    """Make every stage up to `until` that is not there yet.

    On the ranks that torchrun started, or alone.

    Args:
        until: a key of `PARTS`.
        num_processes: make each part in a process of its own, alignment and training on so many ranks (0: one for
            each GPU). None: in this process, as far as it is alone.

    Raises:
        what the stages raise; `run_state.json` says so too, if work had begun.
    """
    parts = list(PARTS)[: list(PARTS).index(until) + 1]
    if until == "align":  # which reads no packed text
        command = replace(command, skip=("data",))
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if "train" in parts and rank == 0:
        check_installed(recipe.train.log)
        if recipe.train.method == "qlora" and find_spec("bitsandbytes") is None:
            raise RecipeError('train.method: "qlora" needs bitsandbytes: pip install "prealign-cpt[bnb]"')
    redo = with_dependents(command.redo) if command.redo else []
    run = Run(recipe.run, command.reuse, command.accept) if rank == 0 else None
    with ended(run):
        if run is not None and redo:
            stages = [stage for part in parts for stage in PARTS[part] if stage not in command.skip]
            _check_redo(run, recipe, stages, redo)
            run.set_aside(redo)
        if num_processes is not None and run is not None:
            for part in parts:
                _make(run, recipe, command, part, num_processes if part in ("align", "train") else 1)
        else:
            _make_here(run, recipe, command, parts, ranks)
        if run is not None:
            run.describe(as_toml(anywhere(recipe)))


def _check_redo(run: Run, recipe: Recipe, stages: list[str], redo: list[str]) -> None:
    """Refuse what would be refused behind `--redo` before that moves anything.

    Raises:
        MissingInputError: a file is not there.
        RecipeError: a stage that is to be kept was made from other inputs.
    """
    for stage in stages:
        of_recipe(stage, recipe, run.digests)
        if stage not in redo and _is_made(recipe, stage):
            made_from = _inputs(stage, recipe, run.digests)
            if stage == "train":
                _is_trained(run, recipe, made_from)
            else:
                folder = recipe.run / stage
                run.check_inputs(folder, read_manifest(folder)["about"]["inputs"], made_from, stage)


def is_done(run: Run, recipe: Recipe, part: str, skip: tuple[str, ...] = ()) -> bool:
    """Whether all stages of a part are there, made from the same; a stage of another run is taken where it can be.

    Args:
        skip: stages that do not matter.

    Raises:
        RecipeError: a stage was made from something else.
        DataError: a stage is damaged.
    """
    for stage in PARTS[part]:
        if stage in skip:
            continue
        if not all(_is_made(recipe, earlier) for earlier in READS[stage].stages):
            return False
        made_from = _inputs(stage, recipe, run.digests)
        if not (_is_trained(run, recipe, made_from) if stage == "train" else run.has(stage, made_from)):
            return False
    return True


def _make(run: Run, recipe: Recipe, command: Command, part: str, num_processes: int) -> None:
    """A part in a process of its own."""
    if is_done(run, recipe, part, command.skip):
        return
    run.start()
    run.digests.save()
    launch.start(command.child(part), num_processes, run.child_environment())
    run.digests.load()


def _make_here(run: Run | None, recipe: Recipe, command: Command, parts: list[str], ranks: int) -> None:
    """Alignment and training in this process; the rest too where it is alone, and by children of rank 0 where not."""
    alone = ranks == 1

    def make(part: str) -> None:
        if run is None or part not in parts:
            return
        if not alone:
            _make(run, recipe, command, part, 1)
        elif not is_done(run, recipe, part, command.skip):
            if part == "prepare":
                _prepare(run, recipe, command)
            else:
                {"export": _export, "eval": _evaluate}[part](run, recipe)

    if alone:
        make("prepare")
        trained = all(is_done(run, recipe, part) for part in ("align", "train") if run and part in parts)
        if not trained:
            _on_ranks(run, recipe, command, parts, lambda: None)
    elif "align" in parts:
        _on_ranks(run, recipe, command, parts, lambda: make("prepare"))
    make("export")
    make("eval")


def _prepare(run: Run, recipe: Recipe, command: Command) -> None:
    from prealign_cpt.prepare import prepare

    prepare(run, recipe, command.skip, command.workers)


def _on_ranks(
    run: Run | None, recipe: Recipe, command: Command, parts: list[str], prepared: Callable[[], None]
) -> None:
    """Alignment and training, by all ranks together."""

    def work(world: "World") -> None:
        _align(run, recipe, world)
        if "train" in parts:
            _train(run, recipe, world, command.accept)

    on_ranks(recipe, prepared, work)


def _align(run: Run | None, recipe: Recipe, world: "World") -> None:
    """The alignment stage, on every rank."""
    from prealign_cpt.align.build import build_align
    from prealign_cpt.lexicon.pairs import read_pairs

    made_from = _inputs("align", recipe, run.digests) if run else {}
    if world.on_rank_0(lambda: run is not None and run.has("align", made_from)):
        return
    init, pairs = recipe.run / "init", read_pairs(recipe.run / "lexicon" / "clean.tsv")
    if run is not None:
        run.stage("align", made_from, lambda out: build_align(recipe, init, pairs, out, world))
    else:
        build_align(recipe, init, pairs, None, world)


def _train(run: Run | None, recipe: Recipe, world: "World", accept: tuple[str, ...]) -> None:
    """Continual pretraining, on every rank; skipped if it is finished."""
    from prealign_cpt.data.build import read_mixture

    if world.on_rank_0(lambda: run is not None and is_done(run, recipe, "train")):
        return
    if run is not None:
        run.start()
    made_from = world.on_rank_0(lambda: _inputs("train", recipe, run.digests) if run else {})
    mixture = read_mixture(recipe, recipe.run / "data")
    train_from(recipe.run / "align", mixture, recipe, made_from, recipe.run / "train", world, accept)


def _export(run: Run, recipe: Recipe) -> None:
    from transformers import AutoTokenizer

    from prealign_cpt.export import Probe, build_export
    from prealign_cpt.model.tokens import new_tokens
    from prealign_cpt.train.checkpoint import latest

    summary = _summary(recipe)
    assert summary is not None
    made_from = _inputs("export", recipe, run.digests)
    step = latest(run.folder / "train", summary["inputs"])
    if step != _last_checkpoint(recipe):
        raise _unsound(recipe)
    probe, align, accepted = Probe(**summary["probe"]), run.folder / "align", "export" in run.accept
    first_new, _ = new_tokens(recipe, AutoTokenizer.from_pretrained(align, local_files_only=True))
    run.stage("export", made_from, lambda out: build_export(recipe, align, step, probe, out, accepted, first_new))


def _evaluate(run: Run, recipe: Recipe) -> None:
    from prealign_cpt.evaluate.stage import build_eval
    from prealign_cpt.model.base import resolve_base
    from prealign_cpt.model.world import choose_device

    folder, device = run.folder, choose_device(recipe.device)
    verify(folder / "export", run.digests.sha256)
    run.stage(
        "eval",
        _inputs("eval", recipe, run.digests),
        lambda out: build_eval(
            recipe,
            resolve_base(recipe.base.model),
            folder / "align",
            folder / "export",
            folder / "lexicon",
            out,
            device,
        ),
    )


def _inputs(stage: str, recipe: Recipe, digests: Digests) -> dict[str, Any]:
    """What a stage is to be made from."""
    folders = {name: recipe.run / name for name in ORDER}
    if stage == "export":
        folders["train"] = _last_checkpoint(recipe)
        if not (folders["train"] / MANIFEST).is_file():
            raise _unsound(recipe)
    return inputs(stage, recipe, digests, folders)


def _is_trained(run: Run, recipe: Recipe, made_from: dict[str, Any]) -> bool:
    folder, summary = recipe.run / "train", _summary(recipe)
    checkpoints = sorted(folder.glob(f"step-{'[0-9]' * 10}/{MANIFEST}"))
    if summary is not None:
        run.check_inputs(folder, summary["inputs"], made_from, "train")
    elif checkpoints:
        run.check_inputs(
            checkpoints[-1].parent, read_manifest(checkpoints[-1].parent)["about"]["inputs"], made_from, "train"
        )
    if summary is None or summary["inputs"] != made_from:
        return False
    run.say_once("train: done before, kept")
    return True


def _is_made(recipe: Recipe, stage: str) -> bool:
    return _summary(recipe) is not None if stage == "train" else (recipe.run / stage).is_dir()


def _last_checkpoint(recipe: Recipe) -> Path:
    return recipe.run / "train" / f"step-{recipe.train.steps:010}"


def _unsound(recipe: Recipe) -> MissingInputError:
    return MissingInputError(f"{recipe.run / 'train'}: the last checkpoint is not sound; start again with --redo train")


def _summary(recipe: Recipe) -> dict[str, Any] | None:
    """What the finished training says of itself; None before."""
    path = recipe.run / "train" / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
