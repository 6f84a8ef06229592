"""`prealign eval SUBJECT...`: options in, subjects and evaluation data out."""

import argparse
from pathlib import Path

from prealign_cpt.evaluate.arguments import FILES, TEXTS, amounts
from prealign_cpt.evaluate.data import data_from, read_prompts
from prealign_cpt.evaluate.measures import chosen
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.table import evaluate, unique
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.serving.key import read_key


def run_eval(options: argparse.Namespace) -> int:
    """Evaluate; the exit code is 1 if a measure failed that had something to measure.

    Raises:
        RecipeError: flags that do not go together.
    """
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
    flags = amounts(options) | {name: value for name in FILES if (value := getattr(options, name)) is not None}
    for name in TEXTS:
        if paths := getattr(options, name):
            stems = unique(path.stem for path in paths)
            flags[name] = tuple(zip(stems if len(stems) > 1 else ["text"], paths, strict=True))
        if path := getattr(options, f"prompts_{name}"):
            flags[f"prompts_{name}"] = read_prompts(path)
    for name in ("lm_eval_tasks", "mteb_tasks"):
        if text := getattr(options, name):
            flags[name] = tuple(part.strip() for part in text.split(","))
    for name in ("language", "code", "window_bytes", "seed"):
        if (value := getattr(options, name)) is not None:
            flags[name] = value
    out = options.out or (run / "evaluation" if run and len(subjects) == 1 else Path("evaluation"))
    return evaluate(subjects, data_from(recipe, run, flags), out, measures)
