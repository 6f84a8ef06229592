"""The command line: `prealign COMMAND ...`. Thin: it parses, calls, and turns errors into one line and an exit code."""

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from prealign_cpt import __version__
from prealign_cpt.evaluate import arguments as arguments_of_evaluation
from prealign_cpt.parser import Parser, names, numbers, parse, share_of
from prealign_cpt.run import launch, signals
from prealign_cpt.run.errors import PrealignError, RecipeError
from prealign_cpt.serving import arguments as arguments_of_serving

PARTS = {
    "prepare": "lexicon, vocabulary, packed text and the extended model's first rows, on one machine",
    "align": "give the new tokens' rows their meaning; under torchrun on all its ranks",
    "train": "continual pretraining; under torchrun on all its ranks",
    "export": "make the Hugging Face folder",
}
"""Commands that make a recipe's stages up to one, those before it included where they are missing."""


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
    options = parse(command_line(of_recipe="".join(arguments[1:2]).endswith(".toml")), arguments)
    return int(options.work(options) or 0)


def command_line(of_recipe: bool = False) -> Parser:
    """The parser of all commands.

    Args:
        of_recipe: whether `prealign eval` is to run a recipe, else to measure models.
    """
    parser = Parser(prog="prealign", description="Extend an English language model to a new language.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    add = commands.add_parser("init", help="look at text in a new language and write a recipe that trains on it")
    add.add_argument("folder", type=Path, metavar="DIR", help="is made; its recipe.toml is the result")
    add.add_argument("--base", required=True, help="as base.model of a recipe: a name, a folder or a hub id")
    add.add_argument("--language", required=True, help='a name ("Swahili") or a BCP 47 code ("sw")')
    add.add_argument("--text", required=True, nargs="+", metavar="PATH", help="as text.target of a recipe")
    add.add_argument("--english", nargs="+", default=[], metavar="PATH", help="as text.english of a recipe")
    add.add_argument("--lexicon", default="", metavar="PATH", help="a word list, as lexicon.path of a recipe")
    add.add_argument(
        "--parallel", nargs=2, default=[], metavar=("ENGLISH", "TARGET"), help="translations, line n beside line n"
    )
    add.set_defaults(work=_init)

    add = commands.add_parser("demo", help="the main job on a small scale: fetch, train, serve, query, report")
    add.add_recipe()
    add.add_argument("--evidence", action="store_true", help="train the base, not extended, and plain rows beside it")
    add.add_argument("--nproc", type=int, default=0, help="processes; 0: one for each GPU, one on a CPU")
    add.set_defaults(work=_demo)

    add = commands.add_parser(
        "compare", help="variants of recipes at equal cost over seeds, each an ordinary run, and one table"
    )
    add.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE")
    add.takes_keys = True
    add.add_argument("--variants", type=Path, required=True, help="TOML: seeds, target_bytes, [[variant]] tables")
    add.add_argument("--nproc", type=int, default=1, help="processes of each training")
    add.add_argument("--out", type=Path, dest="points", help="file for the points of the curves (JSON lines)")
    add.add_argument("--only", type=names, default=(), help="names of the variants to run, with commas between them")
    add.add_argument(
        "--seeds", type=numbers, default=(), help="seeds of the variants file to run, with commas between them"
    )
    add.add_argument("--target-bytes", type=int, help="in place of the variants file's")
    add.add_argument("--table-only", action="store_true", help="run nothing, write the table anew")
    add.set_defaults(work=_compare)

    add = commands.add_parser("audit", help="what languages is the text in, and what of the test text is in it?")
    add.add_argument("subject", type=Path, metavar="RECIPE_OR_RUN", help="a recipe's files, or a run's text")
    add.add_argument("--test", type=Path, action="append", default=[], metavar="FILE", help="test text too; repeatable")
    add.add_argument("--filter", type=Path, dest="clean", metavar="OUT", help="folder to make, with a clean copy")
    add.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    add.set_defaults(work=_audit)

    add = commands.add_parser("sizes", help='what new tokens give or cost, by short trials; vocab.size = "auto"')
    add.add_recipe()
    add.add_argument("--sizes", type=numbers, default=(), help="numbers of new tokens, with commas between them")
    add.add_argument("--trial-bytes", type=int, help="target text that the trial without new tokens reads")
    add.add_argument("--nproc", type=int, default=0, help="processes that train; 0: one for each GPU, one on a CPU")
    add.set_defaults(work=_sizes)

    add = commands.add_parser("base", help="bring a base model into the cache and print its folder")
    add.add_argument("name")
    add.set_defaults(work=_base)

    add = commands.add_parser("fetch", help="bring the texts of a language into the cache")
    add.add_argument("language", choices=("de", "el", "hi", "ru"))
    add.add_argument("--larger", action="store_true", help="insist on the larger sets too, which need apt-get")
    add.set_defaults(work=_fetch)

    add = commands.add_parser("lexicon", help="clean and convert a dictionary to the project's format")
    add.add_argument("file", type=Path, help="the dictionary; or `induce`, to make one of --parallel text")
    add.add_argument("--parallel", type=Path, nargs=2, metavar=("ENGLISH", "TARGET"), help="line n beside line n")
    add.add_argument("--least", type=float, default=0.1, help="probability below which an induced pair is left out")
    add.add_argument(
        "--forms", type=Path, nargs="+", default=[], metavar="TEXT", help="add the forms that target text has of words"
    )
    add.add_argument("--format", default="auto", help="see docs/lexicons.md; recognised where it is not given")
    add.add_argument("--language", default="", help="name or code, for --forms and formats that hold many")
    add.add_argument("--swap", action="store_true", help="English stands second: turn the columns")
    add.add_argument("--out", type=Path, required=True)
    add.set_defaults(work=_lexicon)

    add = commands.add_parser("clone", help="make a language to learn out of English text: the same in other letters")
    add.add_argument("base", help="the model that will learn it: a folder or a name, as base.model of a recipe")
    add.add_argument("texts", nargs="+", type=Path, metavar="TEXT", help="English text files")
    add.add_argument("--out", type=Path, required=True)
    add.add_argument("--vocab", type=int, default=0, help="tokens to clone; 0: all that occur")
    add.add_argument("--lexicon-share", type=float, default=1.0, help="share of the words that the lexicon lists")
    add.add_argument("--ambiguity", type=float, default=0.0, help="share of listed words with a second, wrong sense")
    add.add_argument("--noise", type=float, default=0.0, help="share of listed words whose translation is wrong")
    add.add_argument("--swap", type=float, default=0.0, help="probability that neighbouring words change places")
    add.add_argument("--facts", type=int, default=0, help="invented facts to state and to ask for")
    add.add_argument("--exposures", type=int, default=5, help="how often each fact is stated in a language")
    add.add_argument("--seed", type=int, default=0)
    add.set_defaults(work=_clone)

    add = commands.add_parser("vecmap", help='rows from the tokens\' own contexts (laboratory), for align.init "file"')
    add.add_run()
    add.add_argument("rows", type=Path, help="file to write")
    add.set_defaults(work=_vecmap)

    add = commands.add_parser("run", help="every stage of a recipe, each in a process of its own")
    add.add_run()
    add.add_argument("--nproc", type=int, default=0, help="processes that train; 0: one for each GPU, one on a CPU")
    add.set_defaults(work=_stage)

    for name, text in PARTS.items():
        add = commands.add_parser(name, help=text)
        add.add_run()
        if name == "prepare":
            add.add_argument(
                "--share", type=share_of, help="K/N: pack every Nth shard of text from K on, beside others"
            )
        if name == "export":
            add.add_argument("--step", type=int, help="of RECIPE, or of a run folder in its place: this kept step")
            add.add_argument("--out", type=Path, help="with --step: folder to write to; RUN/export-stepN")
        add.set_defaults(work=_stage)

    add = commands.add_parser("eval", help="measure models on local files; with RECIPE.toml, run it up to eval")
    if of_recipe:
        add.add_run()
        add.set_defaults(work=_stage)
    else:
        arguments_of_evaluation.add_eval(add)
        add.set_defaults(work=_eval)

    add = commands.add_parser("chat", help="make the model of a finished run answer instructions, and measure it")
    add.add_argument("run", type=Path, metavar="RUN", help="its keys [chat] below, from its recipe or as flags")
    add.takes_keys = True
    add.add_argument("--instruct", default="", metavar="MODEL", help="add what made this model out of the run's base")
    add.add_argument("--scale", type=float, default=1.0, help="so many times")
    add.add_argument("--redo", action="store_true", help="set RUN/chat aside and make it anew")
    add.add_argument("--nproc", type=int, default=0, help="processes that train; 0: one for each GPU, one on a CPU")
    add.set_defaults(work=_chat)

    for name, text, work in (
        ("trajectory", "when was it learned? every kept step of a run, layer by layer", _trajectory),
        ("layers", "where does it lie? groups of a trained model's layers put back, and what is lost", _layers),
    ):
        add = commands.add_parser(name, help=text)
        add.add_argument("run", type=Path, metavar="RUN")
        arguments_of_evaluation.add_amounts(add)
        add.set_defaults(work=work)

    add = commands.add_parser("serve", help="serve an exported model with vLLM")
    arguments_of_serving.add_serve(add)
    add.set_defaults(work=arguments_of_serving.run_serve)

    add = commands.add_parser("check", help="is the served model the exported one?")
    arguments_of_serving.add_check(add)
    add.set_defaults(work=arguments_of_serving.run_check)

    add = commands.add_parser("report", help="a table and a page about a run; further runs stand beside it")
    add.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    add.add_argument(
        "--control", type=Path, action="append", default=[], help="run folder of a control on the same text; repeatable"
    )
    add.add_argument("--eval", type=Path, dest="evaluation", help="folder of `prealign eval`; else RUN/evaluation")
    add.add_argument("--out", type=Path, help="folder to write to; RUN/report for one run, else ./report")
    add.set_defaults(work=_report)

    add = commands.add_parser("verify", help="is everything in a run folder as it was written?")
    add.add_argument("run", type=Path)
    add.set_defaults(work=_verify)

    for choice in commands._choices_actions:
        commands.choices[choice.dest].description = choice.help
    return parser


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
    from prealign_cpt.analysis.kept import export_step
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
