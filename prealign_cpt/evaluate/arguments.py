"""`prealign eval` on the command line. Light, so that -h answers at once."""

import argparse
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.measures import MEASURES, PRESETS
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.serving.key import VARIABLE

FILES = {
    "lexicon_train": "lexicon entries that the model may have seen",
    "lexicon_heldout": "lexicon entries to look up",
    "classes_train": "English `label TAB text` lines",
    "classes_test": "target `label TAB text` lines",
    "nli_train": "English `label TAB premise TAB hypothesis` lines",
    "nli_test": "the same with the target's premise and hypothesis in two more columns",
    "lm_eval_path": "folder with lm-eval tasks of your own (YAML)",
    "facts": "questions about invented facts, or the folder of `prealign clone --facts`",
}
TEXTS = ("target", "english")
AMOUNTS = ("parallel", "languages", "max_items", "max_bytes")


def add_amounts(parser: argparse.ArgumentParser) -> None:
    """Which translations are read, and how much of everything; `prealign trajectory` and `layers` take these too."""
    add = parser.add_argument
    add("--parallel", type=Path, help="`english TAB target` lines, or a folder with one file a language")
    add("--languages", metavar="ENGLISH,TARGET", help="names of the files in the parallel folder")
    add("--max-items", type=int, help="most pairs, words, texts or rows of each kind (1000)")
    add("--max-bytes", type=int, help="so many bytes of each held-out text are scored (the recipe's, or 100000)")


def amounts(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as fields of `EvaluationData`.

    Raises:
        RecipeError: `--languages` are not two.
    """
    flags = {name: value for name in AMOUNTS if (value := getattr(options, name)) is not None}
    if "languages" in flags:
        flags["languages"] = tuple(part.strip() for part in options.languages.split(","))
        if len(flags["languages"]) != 2:
            raise RecipeError(f"--languages {options.languages}: give two names, such as eng_Latn,deu_Latn")
    return flags


def add_eval(parser: argparse.ArgumentParser) -> None:
    """The arguments of `prealign eval` for models."""
    add = parser.add_argument
    add("subjects", type=Path, nargs="+", metavar="SUBJECT", help="a run folder or a Hugging Face folder")
    add("--preset", choices=tuple(PRESETS), default="full", help="quick: what a run's own eval stage measures")
    add("--recipe", type=Path, help="take the evaluation data of this recipe; by default the first run's own")
    add("--out", type=Path, help="folder of the results; RUN/evaluation for one run, else ./evaluation")
    add("--only", metavar="A,B", help=f"measures to run, of {', '.join(MEASURES)}")
    add("--base", help="the model before it was extended, a folder or a name; by default the run's own")
    add("--name", dest="run_name", default="", help="the subject's name in tables")
    add("--url", action="append", help="root of the server that generates, once for each subject")
    add("--embeddings-url", action="append", help="root of the server that embeds, once for each subject")
    add("--key-file", type=Path, help=f"file with the servers' key; else ${VARIABLE}")
    for name in TEXTS:
        add(f"--{name}", type=Path, action="append", metavar="FILE", help=f"held-out {name} text; may be repeated")
    add_amounts(parser)
    for name, text in FILES.items():
        add(f"--{name.replace('_', '-')}", type=Path, metavar="PATH", help=text)
    for name in TEXTS:
        add(f"--prompts-{name}", type=Path, metavar="FILE", help=f"{name} prompts, one a line")
    add("--lm-eval", dest="lm_eval_tasks", metavar="TASKS", help="tasks of lm-evaluation-harness, with commas")
    add("--mteb", dest="mteb_tasks", metavar="TASKS", help="tasks of mteb, with commas")
    add("--language", help="name of the target language, such as German")
    add("--code", help="its code, such as deu_Latn")
    add("--window-bytes", type=int, help="longest piece of text that is scored in one go (the recipe's, or 1024)")
    add("--seed", type=int)
    add("--start-token", default="", help="stands before every text; by default the recipe's, else the tokenizer's BOS")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add(
        "--dtype",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: the recipe's precision; without one fp32 on a CPU, bf16 on a GPU",
    )
