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
from transformers import AutoTokenizer

from prealign_cpt.evaluate.served import write
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.lab.compare.budget import plan
from prealign_cpt.lab.compare.variants import BASE, SUBWORD
from prealign_cpt.lab.texts import fetch_bible
from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.bits import windows
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.prepare import check_inputs
from prealign_cpt.recipe.file import as_flags, load_recipe
from prealign_cpt.recipe.schema import SIDES, Recipe
from prealign_cpt.report import write_report
from prealign_cpt.run import launch
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.run.folder import StageClock, say
from prealign_cpt.run.manifest import NAME, atomic_write, folder_digest, new_folder, read_manifest
from prealign_cpt.serving.client import answers
from prealign_cpt.serving.parity import check_parity
from prealign_cpt.serving.server import Server
from prealign_cpt.text.stage import held_out_documents

CONTROLS = {"base": BASE, "subword": SUBWORD}
"""What is trained on the same text: recipe keys by the name behind the run's."""

MINUTES = "fetch 1, lexicon and vocabulary 1, alignment 2, training 5, export 1, evaluation 1, serving 1"
"""Of the demo's stages on two idle cores (benchmarks/results/demo.md)."""

PARITY_TEXTS = 4
"""Windows of each language whose log-probabilities are compared between server and folder."""

MAX_TOKENS = 64
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 0}

ENDINGS, SAMPLES, ENDING_TOKENS = 4, 4, 192
"""Held-out documents, samples after each, and tokens of the document's end that are given."""


def demo(path: Path, flags: list[str], num_processes: int = 0, evidence: bool = False) -> int:
    """Run the demo of a recipe; return the exit code.

    Args:
        flags: recipe keys, for all parts.
        num_processes: ranks; 0 means one for each GPU, or one with all cores.
        evidence: train the controls too.
    """
    recipe = load_recipe(path, flags)
    say(f"about how many minutes the stages take on two idle cores: {MINUTES}")
    _bring_inputs(recipe)
    # On a CPU one rank with all cores: two would pass weights and gradients to each other.
    ranks = num_processes or (torch.cuda.device_count() if _on_gpu(recipe) else 1)
    _run(path, flags, ranks)
    serve(recipe)
    controls = {name: recipe.run.with_name(f"{recipe.name}-{name}") for name in CONTROLS}
    for name, run in controls.items() if evidence else ():
        say(f"evidence: {name}: the same text once more, about 6 minutes on two idle cores")
        control_flags = [*flags, *as_flags({"name": run.name, **CONTROLS[name]})]
        _run_control(path, control_flags, recipe, ranks)
    print(write_report(recipe.run, [run for run in controls.values() if (run / "eval" / NAME).is_file()]))
    report = recipe.run / "report"
    say(f"the page is {report / 'index.html'}, the figures are in {report / 'result.json'}")
    return 0


def _bring_inputs(recipe: Recipe) -> None:
    """Download what the recipe names and the cache lacks."""
    say(f"base model {recipe.base.model}: {resolve_base(recipe.base.model)}")
    cached = [text for text in (*recipe.text.target, *recipe.text.english) if text.startswith("cache:")]
    missing = [text for text in cached if not recipe.path(text).is_file()]
    for folder in sorted({text.removeprefix("cache:").split("/")[0] for text in missing}):
        if not folder.startswith("bible-"):
            raise MissingInputError(f"cache:{folder}: not in the cache; bring it with `prealign fetch LANGUAGE`")
        say(f"texts: {fetch_bible(folder.removeprefix('bible-'))}")
    check_inputs(recipe)


def _on_gpu(recipe: Recipe) -> bool:
    return recipe.device != "cpu" and torch.cuda.is_available()


def _run(path: Path, flags: list[str], ranks: int) -> None:
    """Every stage of one run, in processes of its own."""
    arguments = ["run", str(path), *flags, "--nproc", str(ranks)]
    say(f"prealign {' '.join(arguments)}")
    launch.start(arguments)


def _run_control(path: Path, flags: list[str], recipe: Recipe, ranks: int) -> None:
    """Train a control on as many bytes of target text as the run has read."""
    control, reuse = load_recipe(path, flags), ["--reuse", str(recipe.run.parent)]
    launch.start(["align", str(path), *flags, *reuse])
    target_bytes = plan(recipe, target_bytes=10**12).bytes(recipe.train.steps)
    steps = plan(control, target_bytes).steps
    _run(path, [*flags, "--train.steps", str(steps), *reuse], ranks)


def serve(recipe: Recipe) -> None:
    """Serve the export, prove that it is served as it is, ask it; `serve/result.json`."""
    export, target = recipe.run / "export", recipe.run / "serve"
    about: dict[str, Any] = {"stage": "serve", "inputs": {"export": folder_digest(export)}}
    if target.exists():
        if read_manifest(target)["about"]["inputs"] != about["inputs"]:
            raise RecipeError(f"{target}: belongs to another export; remove it and start again")
        say("serve: done before, kept")
        return
    device: Literal["cpu", "cuda"] = "cuda" if _on_gpu(recipe) else "cpu"
    length = recipe.serve.max_model_len or None
    clock = StageClock()
    with (
        new_folder(target, about) as folder,
        Server(
            export, device=device, served_model_name=recipe.name, max_model_len=length, log=folder / "vllm.log"
        ) as server,
    ):
        say(f"serve: ready after {server.start_seconds:.0f} s at {server.base_url}")
        texts = []
        for side in SIDES:
            texts += windows(held_out_documents(recipe, "valid", side), 400, 400 * PARITY_TEXTS)[:PARITY_TEXTS]
        parity = check_parity(server.base_url, export, texts, recipe.base.start_token)
        say(f"serve: log-probabilities over the API differ by {parity['max_logprob_difference']:.2g} at most")
        result = {"parity": parity, "start_seconds": round(server.start_seconds, 1), **_ask(server, recipe)}
        about.update(clock.figures())
        atomic_write(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False))


def _ask(server: Server, recipe: Recipe) -> dict[str, Any]:
    """What the served model and the base write after the recipe's prompts, and whether ours stops where texts end.

    `answers`: ours, greedy and sampled, and the base's for each prompt. `ends`: of the `asked` texts that were sampled
    after the end of a held-out document, `stopped` ended within MAX_TOKENS.
    """
    tokenizer = AutoTokenizer.from_pretrained(recipe.run / "export", local_files_only=True)
    start = start_token_id(tokenizer, recipe)
    prompts = [*recipe.serve.prompts_target, *recipe.serve.prompts_english]
    languages = [recipe.language] * len(recipe.serve.prompts_target) + ["English"] * len(recipe.serve.prompts_english)
    documents = list(held_out_documents(recipe, "valid", "target"))[:ENDINGS]
    encoded = tokenizer([*prompts, *documents], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    prompt_ids = [[start, *ids] for ids in encoded[: len(prompts)]]
    ending_ids = [[start, *ids][-ENDING_TOKENS:] for ids in encoded[len(prompts) :]]

    greedy = answers(server.base_url, server.model, prompt_ids, max_tokens=MAX_TOKENS)
    sampled = answers(server.base_url, server.model, prompt_ids, max_tokens=MAX_TOKENS, **SAMPLING)
    base = Subject(
        resolve_base(recipe.base.model), device="cpu", dtype="fp32", start_token=recipe.base.start_token
    )  # the GPU's memory is the server's
    written_by_base = write(base, prompts, MAX_TOKENS)
    asked = []
    for i, prompt in enumerate(prompts):
        ours = {
            name: dict(zip(("text", "finish_reason"), texts[i], strict=True))
            for name, texts in (("greedy", greedy), ("sampled", sampled))
        }
        asked.append({"language": languages[i], "prompt": prompt, **ours, "base": {"text": written_by_base[i]}})
        say(f"serve: {languages[i]}: {prompt!r} -> {greedy[i][0]!r}")
    ended = answers(server.base_url, server.model, ending_ids, n=SAMPLES, max_tokens=MAX_TOKENS, **SAMPLING)
    stopped = sum(reason == "stop" for _, reason in ended)
    say(f"serve: {stopped} of {len(ended)} sampled texts stop where a held-out document ends")
    return {"answers": asked, "ends": {"asked": len(ended), "stopped": stopped}}
