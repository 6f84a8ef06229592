"""`prealign COMMAND ...`: what command_line.py has read is done, and errors become one line and an exit code."""

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from prealign_cpt.command_line import PARTS, command_line
from prealign_cpt.evaluate import arguments as arguments_of_evaluation
from prealign_cpt.parser import Parser, parse
from prealign_cpt.run import launch, signals
from prealign_cpt.run.errors import PrealignError, RecipeError
from prealign_cpt.serving import arguments as arguments_of_serving


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `prealign`; returns the exit code."""
    return guarded(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def run_recipe(arguments: list[str]) -> int:
    """Entry point of `launch/cpt.py`; returns the exit code."""

    def work() -> int:
        parser = Parser(prog="cpt.py", description="Every stage of a recipe, training on the ranks of torchrun.")
        parser.add_run()
        return _recipe_command(parse(parser, arguments), "eval")

    return guarded(work)


def guarded(work: Callable[[], int]) -> int:
    """Run a command; a user's error becomes one line on stderr and its exit code, anything else keeps its traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    signals.install()
    try:
        return work()
    except PrealignError as error:
        if not launch.tell(error, error.exit_code) and os.environ.get("RANK", "0") == "0":
            print(f"prealign: {error}", file=sys.stderr, flush=True)
        _tell_torchrun(str(error))
        return error.exit_code
    except BrokenPipeError:
        return 141
    except Exception as error:
        traceback.print_exc()
        launch.tell(error, 70)
        _tell_torchrun(f"{type(error).__name__}: {error}")
        return 70


def _tell_torchrun(reason: str) -> None:
    """Let the report with which torchrun ends say why, instead of that there is no traceback."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": {"message": f"prealign: {reason}", "extraInfo": {"timestamp": int(time.time())}}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(told), encoding="utf-8")


def _run(arguments: list[str]) -> int:
    of_recipe = "".join(arguments[1:2]).endswith(".toml")
    options = parse(command_line(of_recipe), arguments)
    work = _stage if options.command == "eval" and of_recipe else WORK[options.command]
    return int(work(options) or 0)


def _recipe_command(
    options: argparse.Namespace,
    until: str,
    num_processes: int | None = None,
    share: tuple[int, int] | None = None,
) -> int:
    from prealign_cpt.pipeline import Command, run_parts
    from prealign_cpt.recipe.file import load_recipe
    from prealign_cpt.recipe.schema import AUTO

    path, flags, reuse = options.recipe, options.flags, options.reuse
    if reuse is not None and not reuse.is_dir():
        raise RecipeError(f"--reuse: {reuse} is no folder; name the one that holds the runs")
    only_text = "lexicon" in options.skip
    if not only_text:
        from prealign_cpt.advise.choices import choose
        from prealign_cpt.lab.texts import default_english

        flags = choose(path, flags, default_english)
    if load_recipe(path, flags, auto=True).vocab.size == AUTO and not only_text:
        from prealign_cpt.lab.sizes import resolve

        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        flags, trials = resolve(path, flags, num_processes if alone else None)
        reuse = reuse or (trials if trials.is_dir() else None)
    recipe = load_recipe(path, flags, auto=only_text)
    if recipe.align.objective != "prealign":
        import prealign_cpt.lab.objectives  # noqa: F401  (makes their names known)
    command = Command(
        path=path, flags=tuple(flags), redo=options.redo, reuse=reuse, accept=options.accept, skip=options.skip,
        workers=options.workers,
    )  # fmt: skip
    if share is not None:
        from prealign_cpt.prepare import pack_share

        pack_share(recipe, share, options.workers)
        return 0
    run_parts(recipe, command, until, num_processes)
    return 0


def _stage(options: argparse.Namespace) -> int:
    if options.command == "run":
        return _recipe_command(options, "eval", options.nproc)
    if options.command == "export":
        if options.step is not None:
            return _export_step(options)
        options.flags += ["--out", str(options.out)] if options.out else []  # the recipe's key
    share = options.share if options.command == "prepare" else None
    return _recipe_command(options, options.command, share=share)


def _export_step(options: argparse.Namespace) -> int:
    from prealign_cpt.export.kept import export_step
    from prealign_cpt.recipe.file import recipe_of

    recipe = recipe_of(options.recipe, options.flags)
    print(export_step(recipe, options.step, options.out, accept="export" in options.accept))
    return 0


def _eval(options: argparse.Namespace) -> int:
    # Libraries read these once, when they are imported: an evaluation downloads nothing.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    from prealign_cpt.evaluate.command import run_eval

    return run_eval(options)


def _chat(options: argparse.Namespace) -> None:
    from prealign_cpt.chat.command import Command, chat

    flags = tuple(options.flags)
    chat(Command(options.run, flags, options.instruct, options.scale, options.redo, options.nproc))


def _trajectory(options: argparse.Namespace) -> None:
    from prealign_cpt.analysis.trajectory import trajectory

    print(trajectory(options.run, arguments_of_evaluation.amounts(options)))


def _layers(options: argparse.Namespace) -> None:
    from prealign_cpt.analysis.layers import layers

    print(layers(options.run, arguments_of_evaluation.amounts(options)))


def _init(options: argparse.Namespace) -> None:
    from prealign_cpt.advise.init import init
    from prealign_cpt.lab.texts import default_english

    named = {key: getattr(options, key) for key in ("text", "english", "lexicon", "parallel")}
    init(options.folder, options.base, options.language, named, default_english)


def _demo(options: argparse.Namespace) -> int:
    from prealign_cpt.lab.demo import demo

    return demo(options.recipe, options.flags, options.nproc, options.evidence)


def _audit(options: argparse.Namespace) -> None:
    from prealign_cpt.audit.command import audit

    print(audit(options.subject, options.test, options.clean, options.workers))


def _sizes(options: argparse.Namespace) -> None:
    from prealign_cpt.lab.sizes import sizes

    sizes(options.recipe, options.flags, options.sizes, options.trial_bytes, options.nproc)


def _compare(options: argparse.Namespace) -> int:
    from prealign_cpt.lab.compare.run import compare

    return compare(
        options.recipes,
        options.variants,
        options.flags,
        options.nproc,
        options.points,
        options.only,
        options.seeds,
        options.target_bytes,
        options.table_only,
    )


def _base(options: argparse.Namespace) -> None:
    from prealign_cpt.model.base import resolve_base

    with contextlib.redirect_stdout(sys.stderr):  # of what is said on the way: the path alone can be taken by a script
        folder = resolve_base(options.name)
    print(folder)


def _fetch(options: argparse.Namespace) -> None:
    from prealign_cpt.lab.texts import fetch

    for line in fetch(options.language, options.larger):
        print(line)


def _lexicon(options: argparse.Namespace) -> None:
    if options.parallel:
        from prealign_cpt.lexicon.induce import induce

        if options.file != Path("induce"):
            raise RecipeError("--parallel: write prealign lexicon induce --parallel ENGLISH TARGET --out OUT.tsv")
        english, target = reversed(options.parallel) if options.swap else options.parallel
        counts = induce(english, target, options.out, options.least)
    else:
        from prealign_cpt.lexicon.stage import convert

        counts = convert(options.file, options.format, options.out, options.language, options.swap, options.forms)
    print(json.dumps(counts, ensure_ascii=False))


def _clone(options: argparse.Namespace) -> None:
    from prealign_cpt.lab.clone.build import CloneOptions, build_clone

    names = ("vocab", "lexicon_share", "ambiguity", "noise", "swap", "facts", "exposures", "seed")
    chosen = CloneOptions(**{name: getattr(options, name) for name in names})
    print(json.dumps(build_clone(options.base, options.texts, options.out, chosen)))


def _vecmap(options: argparse.Namespace) -> None:
    from prealign_cpt.lab.objectives.vecmap import write_vecmap
    from prealign_cpt.lexicon.pairs import read_pairs
    from prealign_cpt.model.base import resolve_base
    from prealign_cpt.recipe.file import load_recipe

    recipe = load_recipe(options.recipe, options.flags)
    options.skip = ("data", "init")
    _recipe_command(options, "prepare")
    pairs = read_pairs(recipe.run / "lexicon" / "clean.tsv")
    write_vecmap(recipe, resolve_base(recipe.base.model), recipe.run / "vocab", pairs, options.rows)


def _report(options: argparse.Namespace) -> None:
    from prealign_cpt.report import write_report

    run, *others = options.runs
    print(write_report(run, options.control, others, options.evaluation, options.out))


def _verify(options: argparse.Namespace) -> int:
    from prealign_cpt.verify import inspect

    findings = inspect(options.run)
    for finding in findings:
        print(finding)
    return 65 if any(finding.damaged for finding in findings) else 0


WORK: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "init": _init,
    "demo": _demo,
    "compare": _compare,
    "audit": _audit,
    "sizes": _sizes,
    "base": _base,
    "fetch": _fetch,
    "lexicon": _lexicon,
    "clone": _clone,
    "vecmap": _vecmap,
    **dict.fromkeys(("run", *PARTS), _stage),
    "eval": _eval,
    "chat": _chat,
    "trajectory": _trajectory,
    "layers": _layers,
    "serve": arguments_of_serving.run_serve,
    "check": arguments_of_serving.run_check,
    "report": _report,
    "verify": _verify,
}
"""What each command does; its exit code, None for 0."""
