"""The command line of `prealign eval SUBJECT...`: flags in, subjects and work out."""

import argparse
from pathlib import Path

from prealign_cpt.evaluate.compare import evaluate, unique
from prealign_cpt.evaluate.read import read_prompts
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import MEASURES
from prealign_cpt.evaluate.work import work_from
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.serving.key import VARIABLE, read_key

FILES = {
    "parallel": "`english TAB target` lines, or a folder with one file a language",
    "lexicon_train": "lexicon entries on which a layer is chosen",
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
    for flag, given in (("--url", urls), ("--embeddings-url", embeddings)):
        if given and len(given) != len(options.subjects):
            raise RecipeError(f"{flag}: given {len(given)} times for {len(options.subjects)} subjects; once for each")
    if options.run_name and len(options.subjects) > 1:
        raise RecipeError("--name: is for one subject; several are named after their folders")
    key = read_key(options.key_file) or ""
    subjects = [
        Subject(
            path,
            name=options.run_name,
            device=options.device,
            dtype=options.dtype,
            start_token=options.start_token,
            base=options.base,
            url=urls[i] if urls else "",
            embeddings_url=embeddings[i] if embeddings else "",
            key=key,
        )
        for i, path in enumerate(options.subjects)
    ]
    given = {name: value for name in FILES if (value := getattr(options, name)) is not None}
    for name in TEXTS:
        if paths := getattr(options, name):
            stems = unique(path.stem for path in paths)
            given[name] = tuple(zip(stems if len(stems) > 1 else ["text"], paths, strict=True))
    for name in TEXTS:
        if path := getattr(options, f"prompts_{name}"):
            given[f"prompts_{name}"] = read_prompts(path)
    for name in ("languages", "lm_eval_tasks", "mteb_tasks"):
        if text := getattr(options, name):
            given[name] = tuple(part.strip() for part in text.split(","))
    if "languages" in given and len(given["languages"]) != 2:
        raise RecipeError(f"--languages {options.languages}: give two names, such as eng_Latn,deu_Latn")
    for name in ("language", "code", "max_items", "window_bytes", "seed"):
        if (value := getattr(options, name)) is not None:
            given[name] = value
    work = work_from(options.work, subjects[0].run, given)
    out = options.out
    if out is None:
        run = subjects[0].run
        out = run / "evaluation" if run is not None and len(subjects) == 1 else Path("evaluation")
    return evaluate(subjects, work, out, options.only.split(",") if options.only else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prealign eval",
        description="Measure models on local files. `prealign eval RECIPE.toml` runs the recipe's stages up to eval.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("subjects", type=Path, nargs="+", metavar="SUBJECT", help="a run folder or a Hugging Face folder")
    add("--work", type=Path, metavar="RECIPE", help="take the held-out files and settings of this recipe")
    add("--out", type=Path, help="folder of the results; RUN/evaluation for one run, else ./evaluation")
    add("--only", metavar="A,B", help=f"measures to run, of {', '.join(MEASURES)}")
    add("--base", type=Path, help="the model before it was extended; by default the run's own")
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
    add("--max-items", type=int, help="most pairs, words or windows of each kind (1000)")
    add("--window-bytes", type=int, help="longest piece of text that is scored in one go (1024)")
    add("--seed", type=int)
    add("--start-token", default="", help="stands before every text; by default the run's, else the tokenizer's BOS")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="auto: fp32 on a CPU, bf16 on a GPU")
    return parser
