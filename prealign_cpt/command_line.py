"""The words of `prealign COMMAND ...`: every command with its arguments. cli.py does what they ask for."""

from pathlib import Path

from prealign_cpt import __version__
from prealign_cpt.evaluate import arguments as arguments_of_evaluation
from prealign_cpt.parser import Parser, names, numbers, share_of
from prealign_cpt.serving import arguments as arguments_of_serving

PARTS = {
    "prepare": "lexicon, vocabulary, packed text and the extended model's first rows, on one machine",
    "align": "give the new tokens' rows their meaning; under torchrun on all its ranks",
    "train": "continual pretraining; under torchrun on all its ranks",
    "export": "make the Hugging Face folder",
}
"""Commands that make a recipe's stages up to one, those before it included where they are missing."""


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

    add = commands.add_parser("demo", help="the main job on a small scale: fetch, train, serve, query, report")
    add.add_recipe()
    add.add_argument("--evidence", action="store_true", help="train the base, not extended, and plain rows beside it")
    add.add_argument("--nproc", type=int, default=0, help="processes; 0: one for each GPU, one on a CPU")

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

    add = commands.add_parser("audit", help="what languages is the text in, and what of the test text is in it?")
    add.add_argument("subject", type=Path, metavar="RECIPE_OR_RUN", help="a recipe's files, or a run's text")
    add.add_argument("--test", type=Path, action="append", default=[], metavar="FILE", help="test text too; repeatable")
    add.add_argument("--filter", type=Path, dest="clean", metavar="OUT", help="folder to make, with a clean copy")
    add.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")

    add = commands.add_parser("sizes", help='what new tokens give or cost, by short trials; vocab.size = "auto"')
    add.add_recipe()
    add.add_argument("--sizes", type=numbers, default=(), help="numbers of new tokens, with commas between them")
    add.add_argument("--trial-bytes", type=int, help="target text that the trial without new tokens reads")
    add.add_argument("--nproc", type=int, default=0, help="processes that train; 0: one for each GPU, one on a CPU")

    add = commands.add_parser("base", help="bring a base model into the cache and print its folder")
    add.add_argument("name")

    add = commands.add_parser("fetch", help="bring the texts of a language into the cache")
    add.add_argument("language", choices=("de", "el", "hi", "ru"))
    add.add_argument("--larger", action="store_true", help="insist on the larger sets too, which need apt-get")

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

    add = commands.add_parser("vecmap", help='rows from the tokens\' own contexts (laboratory), for align.init "file"')
    add.add_run()
    add.add_argument("rows", type=Path, help="file to write")

    add = commands.add_parser("run", help="every stage of a recipe, each in a process of its own")
    add.add_run()
    add.add_argument("--nproc", type=int, default=0, help="processes that train; 0: one for each GPU, one on a CPU")

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

    add = commands.add_parser("eval", help="measure models on local files; with RECIPE.toml, run it up to eval")
    if of_recipe:
        add.add_run()
    else:
        arguments_of_evaluation.add_eval(add)

    add = commands.add_parser("chat", help="make the model of a finished run answer instructions, and measure it")
    add.add_argument("run", type=Path, metavar="RUN", help="its keys [chat] below, from its recipe or as flags")
    add.takes_keys = True
    add.add_argument("--instruct", default="", metavar="MODEL", help="add what made this model out of the run's base")
    add.add_argument("--scale", type=float, default=1.0, help="so many times")
    add.add_argument("--redo", action="store_true", help="set RUN/chat aside and make it anew")
    add.add_argument("--nproc", type=int, default=0, help="processes that train; 0: one for each GPU, one on a CPU")

    for name, text in (
        ("trajectory", "when was it learned? every kept step of a run, layer by layer"),
        ("layers", "where does it lie? groups of a trained model's layers put back, and what is lost"),
    ):
        add = commands.add_parser(name, help=text)
        add.add_argument("run", type=Path, metavar="RUN")
        arguments_of_evaluation.add_amounts(add)

    add = commands.add_parser("serve", help="serve an exported model with vLLM")
    arguments_of_serving.add_serve(add)

    add = commands.add_parser("check", help="is the served model the exported one?")
    arguments_of_serving.add_check(add)

    add = commands.add_parser("report", help="a table and a page about a run; further runs stand beside it")
    add.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    add.add_argument(
        "--control", type=Path, action="append", default=[], help="run folder of a control on the same text; repeatable"
    )
    add.add_argument("--eval", type=Path, dest="evaluation", help="folder of `prealign eval`; else RUN/evaluation")
    add.add_argument("--out", type=Path, help="folder to write to; RUN/report for one run, else ./report")

    add = commands.add_parser("verify", help="is everything in a run folder as it was written?")
    add.add_argument("run", type=Path)

    for choice in commands._choices_actions:
        commands.choices[choice.dest].description = choice.help
    return parser
