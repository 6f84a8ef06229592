"""The whole story on a small scale, one command: fetch, train, control, serve, query, report.

    run NAME          every stage of the recipe, under torchrun
    run NAME-control  training on as much target text from plain subword-mean rows: no lexicon, no contrastive stage,
                      no switching
    serve/            the export under vLLM, proven equal, asked in both languages
    report/           one table, one page

Each part is skipped when it was done before, so an interrupted demo continues where it stopped.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer

from prealign_cpt import torchrun
from prealign_cpt.data.text import read_documents
from prealign_cpt.errors import MissingInputError, RecipeError
from prealign_cpt.evaluate.bits import windows
from prealign_cpt.fetch import fetch_bible, resolve_base
from prealign_cpt.inputs import check_inputs
from prealign_cpt.manifest import atomic_write, new_folder, read_manifest
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe import Recipe
from prealign_cpt.recipe_file import load_recipe
from prealign_cpt.report import write_report
from prealign_cpt.run import StageClock, folder_digest, say
from prealign_cpt.serving.client import complete
from prealign_cpt.serving.parity import check_parity
from prealign_cpt.serving.server import Server

CONTROL = {
    "align.init": "subword",
    "align.shrink": "1.0",
    "align.calibrate": "0.0",
    "align.steps": "0",
    "align.max_english_increase": "1.0",
    "codeswitch.ratio": "0.0",
    "train.composition_lr": "0.0",
    "evaluate.arms": "false",
}
"""What the control does without. Plain rows cost English something at first, so its gate is open."""

PARITY_TEXTS = 4
"""Windows of each language whose log-probabilities are compared between server and folder."""


def demo(path: Path, flags: list[str], num_processes: int = 0) -> int:
    """Run the demo of a recipe; return the exit code.

    Args:
        flags: recipe keys, for all parts.
        num_processes: ranks; 0 means one for each GPU, or two on a CPU.
    """
    recipe = load_recipe(path, flags)
    changes = {
        "name": f"{recipe.name}-control",
        **CONTROL,
        "train.steps": str(recipe.train.steps + _extra_steps(recipe)),
    }
    control_flags = [*flags, *(word for key, value in changes.items() for word in (f"--{key}", value))]
    control = load_recipe(path, control_flags)
    _bring(recipe)
    check_inputs(recipe)  # here, because torchrun buries a rank's one line under its own report
    for own_flags, own in ((flags, recipe), (control_flags, control)):
        code = _train(path, own_flags, own, num_processes)
        if code:
            return code
    _serve(recipe)
    print(write_report(recipe.run, control.run))
    report = recipe.run / "report"
    say(f"the page is {report / 'index.html'}, the figures are in {report / 'result.json'}")
    return 0


def _extra_steps(recipe: Recipe) -> int:
    """Steps in which the control reads as much target text as the contrastive stage did, so that both read the same."""
    per_step = recipe.train.sequences * recipe.data.sequence_length * (1 - recipe.data.english_share)
    return math.ceil(recipe.align.steps * recipe.align.target_tokens / per_step)


def _bring(recipe: Recipe) -> None:
    """Download what the recipe names and the cache lacks."""
    say(f"base model {recipe.base.model}: {resolve_base(recipe.base.model)}")
    cached = [text for text in (*recipe.text.target, *recipe.text.english) if text.startswith("cache:")]
    missing = [text for text in cached if not recipe.path(text).is_file()]
    for folder in sorted({text.removeprefix("cache:").split("/")[0] for text in missing}):
        if not folder.startswith("bible-"):
            raise MissingInputError(f"cache:{folder}: not in the cache; bring it with `prealign fetch LANGUAGE`")
        say(f"texts: {fetch_bible(folder.removeprefix('bible-'))}")


def _train(path: Path, flags: list[str], recipe: Recipe, num_processes: int) -> int:
    """Every stage of one run; its exit code."""
    on_gpu = recipe.device != "cpu" and torch.cuda.is_available()
    ranks = num_processes or (torch.cuda.device_count() if on_gpu else 2)
    torchrun.check_script()
    say(" ".join(["torchrun", "--nproc-per-node", str(ranks), "launch/cpt.py", str(path), *flags]))
    return torchrun.start([str(torchrun.SCRIPT)], [str(path), *flags], recipe.run, ranks)


def _serve(recipe: Recipe) -> None:
    """Serve the export, prove that it is served as it is, ask it; `serve/result.json`."""
    export, target = recipe.run / "export", recipe.run / "serve"
    about: dict[str, Any] = {"stage": "serve", "inputs": {"export": folder_digest(export)}}
    if target.exists():
        if read_manifest(target)["about"]["inputs"] != about["inputs"]:
            raise RecipeError(f"{target}: belongs to another export; remove it and start again")
        say("serve: done before, kept")
        return
    device: Literal["cpu", "cuda"] = "cuda" if recipe.device != "cpu" and torch.cuda.is_available() else "cpu"
    clock = StageClock()
    with (
        new_folder(target, about) as folder,
        Server(
            export,
            device=device,
            served_model_name=recipe.name,
            max_model_len=recipe.serve.max_model_len,
            log=folder / "vllm.log",
        ) as server,
    ):
        say(f"serve: ready after {server.start_seconds:.0f} s at {server.base_url}")
        texts = []
        for name in (recipe.text.valid_target, recipe.text.valid_english):
            texts += windows(read_documents([recipe.path(name)]), 400, 400 * PARITY_TEXTS)[:PARITY_TEXTS]
        parity = check_parity(server.base_url, export, texts, recipe.base.start_token)
        say(f"serve: log-probabilities over the API differ by {parity['max_logprob_difference']:.2g} at most")
        answers = []
        tokenizer = AutoTokenizer.from_pretrained(export, local_files_only=True)
        start = start_token_id(tokenizer, recipe)
        asked = [(recipe.language, prompt) for prompt in recipe.serve.prompts_target]
        asked += [("English", prompt) for prompt in recipe.serve.prompts_english]
        for language, prompt in asked:
            ids = [start, *tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)]
            answer = complete(server.base_url, server.model, ids, max_tokens=32)
            answers.append({"language": language, "prompt": prompt, "answer": answer})
            say(f"serve: {language}: {prompt!r} -> {answer!r}")
        result = {"parity": parity, "start_seconds": round(server.start_seconds, 1), "answers": answers}
        about.update(clock.figures())
        atomic_write(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False))
