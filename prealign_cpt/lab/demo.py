"""The main job on a small scale, one command: fetch, train, serve, query, report; and the evidence beside it.

    demo       run NAME            every stage of the recipe
               serve/              the export under vLLM, proven equal, asked in both languages beside the base
               report/             one table, one page
    evidence   run NAME-base       the same text for the base with its own tokens: not extended
               run NAME-subword    the same text for plain subword-mean rows: no lexicon, no contrastive stage, no
                                   switching, no composition map

Each part is skipped when it was done before, so an interrupted demo continues where it stopped.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch

from prealign_cpt.lab.answers import ask, ends
from prealign_cpt.lab.compare.budget import plan
from prealign_cpt.lab.texts.bible import fetch_bible
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.bits import windows
from prealign_cpt.prepare import check_inputs
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.report import write_report
from prealign_cpt.run import launch
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.folder import StageClock, folder_digest, say
from prealign_cpt.run.manifest import NAME, atomic_write, new_folder, read_manifest
from prealign_cpt.serving.parity import check_parity
from prealign_cpt.serving.server import Server
from prealign_cpt.text.reader import read_documents

CONTROLS = {
    "base": {"vocab.size": "0"},
    "subword": {"align.init": "subword", "align.shrink": "1.0", "align.calibrate": "0.0"},
}
"""What is trained on the same text: recipe keys by the name behind the run's."""

WITHOUT = {
    "align.steps": "0",
    "align.max_english_increase": "1.0",
    "codeswitch.ratio": "0.0",
    "train.composition_lr": "0.0",
    "evaluate.before_training": "false",
}
"""What all controls do without. Plain rows cost English something at first, so their gate is open."""

MINUTES = "fetch 1, lexicon and vocabulary 1, alignment 2, training 5, export 1, evaluation 1, serving 1"
"""Of the demo's stages on two idle cores (benchmarks/results/demo.md)."""

PARITY_TEXTS = 4
"""Windows of each language whose log-probabilities are compared between server and folder."""


def demo(path: Path, flags: list[str], num_processes: int = 0, evidence: bool = False) -> int:
    """Run the demo of a recipe; return the exit code.

    Args:
        flags: recipe keys, for all parts.
        num_processes: ranks; 0 means one for each GPU, or one with all cores.
        evidence: train the controls too.
    """
    recipe = load_recipe(path, flags)
    say(f"about how many minutes the stages take on two idle cores: {MINUTES}")
    _bring(recipe)
    check_inputs(recipe)
    ranks = num_processes or _devices(recipe)
    _train(path, flags, ranks)
    _serve(recipe)
    for name, keys in CONTROLS.items() if evidence else ():
        say(f"evidence: {name}: the same text once more, about 6 minutes on two idle cores")
        _control(path, _flags(recipe, flags, name, keys), recipe, ranks)
    done = [control for name in CONTROLS if ((control := _control_run(recipe, name)) / "eval" / NAME).is_file()]
    print(write_report(recipe.run, done))
    report = recipe.run / "report"
    say(f"the page is {report / 'index.html'}, the figures are in {report / 'result.json'}")
    return 0


def _control_run(recipe: Recipe, name: str) -> Path:
    return recipe.run.with_name(f"{recipe.name}-{name}")


def _flags(recipe: Recipe, flags: list[str], name: str, keys: dict[str, str]) -> list[str]:
    changes = {"name": f"{recipe.name}-{name}", **WITHOUT, **keys}
    return [*flags, *(word for key, value in changes.items() for word in (f"--{key}", value))]


def _control(path: Path, flags: list[str], recipe: Recipe, ranks: int) -> None:
    """Train a control on as many bytes of target text as the run has read."""
    control = load_recipe(path, flags)
    reuse = ["--reuse", str(recipe.run.parent)]
    launch.start(["align", str(path), *flags, *reuse])
    read = plan(recipe, target_bytes=10**12).bytes(recipe.train.steps)
    steps = plan(control, target_bytes=read).steps
    _train(path, [*flags, "--train.steps", str(steps), *reuse], ranks)


def _bring(recipe: Recipe) -> None:
    """Download what the recipe names and the cache lacks."""
    say(f"base model {recipe.base.model}: {resolve_base(recipe.base.model)}")
    cached = [text for text in (*recipe.text.target, *recipe.text.english) if text.startswith("cache:")]
    missing = [text for text in cached if not recipe.path(text).is_file()]
    for folder in sorted({text.removeprefix("cache:").split("/")[0] for text in missing}):
        if not folder.startswith("bible-"):
            raise MissingInputError(f"cache:{folder}: not in the cache; bring it with `prealign fetch LANGUAGE`")
        say(f"texts: {fetch_bible(folder.removeprefix('bible-'))}")


def _devices(recipe: Recipe) -> int:
    """One rank for each GPU. On a CPU one, with all cores: two would pass weights and gradients to each other."""
    return torch.cuda.device_count() if _on_gpu(recipe) else 1


def _on_gpu(recipe: Recipe) -> bool:
    return recipe.device != "cpu" and torch.cuda.is_available()


def _train(path: Path, flags: list[str], ranks: int) -> None:
    """Every stage of one run."""
    arguments = ["run", str(path), *flags, "--nproc", str(ranks)]
    say(f"prealign {' '.join(arguments)}")
    launch.start(arguments)


def _serve(recipe: Recipe) -> None:
    """Serve the export, prove that it is served as it is, ask it; `serve/result.json`."""
    export, target = recipe.run / "export", recipe.run / "serve"
    about: dict[str, Any] = {"stage": "serve", "inputs": {"export": folder_digest(export)}}
    if target.exists():
        if read_manifest(target)["about"]["inputs"] != about["inputs"]:
            raise RecipeError(f"{target}: belongs to another export; remove it and start again")
        say("serve: done before, kept")
        return
    device: Literal["cpu", "cuda"] = "cuda" if _on_gpu(recipe) else "cpu"
    clock = StageClock()
    with (
        new_folder(target, about) as folder,
        Server(
            export,
            device=device,
            served_model_name=recipe.name,
            max_model_len=recipe.serve.max_model_len or None,
            log=folder / "vllm.log",
        ) as server,
    ):
        say(f"serve: ready after {server.start_seconds:.0f} s at {server.base_url}")
        texts = []
        for name in (recipe.text.valid_target, recipe.text.valid_english):
            texts += windows(read_documents([recipe.path(name)]), 400, 400 * PARITY_TEXTS)[:PARITY_TEXTS]
        parity = check_parity(server.base_url, export, texts, recipe.base.start_token)
        say(f"serve: log-probabilities over the API differ by {parity['max_logprob_difference']:.2g} at most")
        asked = ask(server, recipe, export, resolve_base(recipe.base.model))
        for one in asked:
            say(f"serve: {one['language']}: {one['prompt']!r} -> {one['greedy']['text']!r}")
        stops = ends(server, recipe, export)
        say(f"serve: {stops['stopped']} of {stops['asked']} sampled texts stop where a held-out document ends")
        result = {"parity": parity, "start_seconds": round(server.start_seconds, 1), "answers": asked, "ends": stops}
        about.update(clock.figures())
        atomic_write(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False))
