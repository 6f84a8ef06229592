"""The command line of `prealign eval SUBJECT...`: flags in, subjects and evaluation data out."""

import argparse
from pathlib import Path

from prealign_cpt.evaluate.data import data_from, read_prompts
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import MEASURES, PRESETS, chosen
from prealign_cpt.evaluate.table import evaluate, unique
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.serving.key import VARIABLE, read_key

FILES = {
    "parallel": "`english TAB target` lines, or a folder with one file a language",
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


def main(arguments: list[str]) -> int:
    """Evaluate; the exit code is 1 if a measure failed that had something to measure.

    Raises:
        RecipeError: flags that do not go together.
    """
    options = _parser().parse_args(arguments)
    urls, embeddings = options.url or [], options.embeddings_url or []
    for flag, values in (("--url", urls), ("--embeddings-url", embeddings)):
        if values and len(values) != len(options.subjects):
            raise RecipeError(f"{flag}: given {len(values)} times for {len(options.subjects)} subjects; once for each")
    if options.run_name and len(options.subjects) > 1:
        raise RecipeError("--name: is for one subject; several are named after their folders")
    measures = chosen(options.preset, options.only.split(",") if options.only else ())
    key = read_key(options.key_file) or ""
    run = next((path for path in options.subjects if (path / "recipe.toml").is_file()), None)
    recipe = load_recipe(options.recipe) if options.recipe else load_recipe(run / "recipe.toml") if run else None
    # One type for all, and the recipe's start token for models that are no runs: else they could not be compared.
    dtype = recipe.train.precision if recipe and options.dtype == "auto" else options.dtype
    start_token = recipe.base.start_token if recipe else ""
    subjects = [
        Subject(
            path,
            name=options.run_name,
            device=options.device,
            dtype=dtype,
            start_token=options.start_token or ("" if (path / "recipe.toml").is_file() else start_token),
            base=options.base,
            url=urls[i] if urls else "",
            embeddings_url=embeddings[i] if embeddings else "",
            key=key,
        )
        for i, path in enumerate(options.subjects)
    ]
    flags = {name: value for name in FILES if (value := getattr(options, name)) is not None}
    for name in TEXTS:
        if paths := getattr(options, name):
            stems = unique(path.stem for path in paths)
            flags[name] = tuple(zip(stems if len(stems) > 1 else ["text"], paths, strict=True))
        if path := getattr(options, f"prompts_{name}"):
            flags[f"prompts_{name}"] = read_prompts(path)
    for name in ("languages", "lm_eval_tasks", "mteb_tasks"):
        if text := getattr(options, name):
            flags[name] = tuple(part.strip() for part in text.split(","))
    if "languages" in flags and len(flags["languages"]) != 2:
        raise RecipeError(f"--languages {options.languages}: give two names, such as eng_Latn,deu_Latn")
    for name in ("language", "code", "max_items", "max_bytes", "window_bytes", "seed"):
        if (value := getattr(options, name)) is not None:
            flags[name] = value
    out = options.out or (run / "evaluation" if run and len(subjects) == 1 else Path("evaluation"))
    return evaluate(subjects, data_from(recipe, run, flags), out, measures)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prealign eval",
        description="Measure models on local files. `prealign eval RECIPE.toml` runs the recipe's stages up to eval.",
        allow_abbrev=False,
    )
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
    for name, text in FILES.items():
        add(f"--{name.replace('_', '-')}", type=Path, metavar="PATH", help=text)
    add("--languages", metavar="ENGLISH,TARGET", help="names of the files in the parallel folder")
    for name in TEXTS:
        add(f"--prompts-{name}", type=Path, metavar="FILE", help=f"{name} prompts, one a line")
    add("--lm-eval", dest="lm_eval_tasks", metavar="TASKS", help="tasks of lm-evaluation-harness, with commas")
    add("--mteb", dest="mteb_tasks", metavar="TASKS", help="tasks of mteb, with commas")
    add("--language", help="name of the target language, such as German")
    add("--code", help="its code, such as deu_Latn")
    add("--max-items", type=int, help="most pairs, words, texts or rows of each kind (1000)")
    add("--max-bytes", type=int, help="so many bytes of each held-out text are scored (the recipe's, or 100000)")
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
    return parser
