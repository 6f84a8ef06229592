"""Characters of a language that vLLM reads and writes a second: extended models beside their base.

    python benchmarks/characters_per_second.py runs/race/race-greek-250000-prealign-s0 --base

    held-out text --cut in characters--> the same prompts for all --start token, ids of each--> vLLM --> seconds

Models are served one after another, in `--rounds` turns, since other load comes and goes; medians over all repeats.
Of every model:

- reading: characters of prompts a second (one token is generated);
- scoring: the same where each token's log-probability is asked for;
- tokens written a second: `--tokens` greedy tokens after short prompts, whose time is included; end tokens are ignored;
- writing: those tokens times the characters that a token of the held-out text has. What the model itself wrote is given
  beside it, but depends on what it writes: a base that falls back into English writes long tokens of another language;
- tokens a character, and the longest text in characters that the model's context holds.

No text is sent twice to a server, so its prefix cache finds nothing. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prealign_cpt.model.base import resolve_base
from prealign_cpt.model.tokens import encode_plain
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.serving import client
from prealign_cpt.serving.server import Server
from prealign_cpt.text.reader import read_documents

PROMPT = 80
"""Characters of the prompts that are continued."""

LENGTH = 2048
"""Longest sequence that the servers take."""

RATES = {
    "reading": "characters read a second",
    "scoring": "characters scored a second",
    "tokens_written": "tokens written a second",
    "writing": "characters written a second",
    "writing_own": "of its own text",
}
SIZES = {"tokens_per_character": "tokens a character", "context_characters": "context in characters"}

Times = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN_OR_FOLDER", help="run folders, or served folders")
    parser.add_argument(
        "--base", nargs="?", const="", help="serve the base too: a name or folder, by default the run's"
    )
    parser.add_argument("--text", type=Path, help="held-out text; by default the test text of the first run")
    parser.add_argument("--start-token", help="by default the first run's")
    parser.add_argument("--characters", type=int, default=400, help="of a text that is read")
    parser.add_argument("--tokens", type=int, default=48, help="that are written after a prompt")
    parser.add_argument("--concurrency", type=int, default=4, help="texts in one request")
    parser.add_argument("--repeats", type=int, default=4, help="requests of each kind in a turn")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each model")
    options = parser.parse_args()

    run = next((folder for folder in options.folders if (folder / "recipe.toml").is_file()), None)
    if run:
        recipe = load_recipe(run / "recipe.toml", [])
        path = options.text or recipe.path(recipe.text.test_target)
        start_token, base = options.start_token or recipe.base.start_token, options.base or recipe.base.model
    else:
        path, start_token, base = options.text, options.start_token, options.base
        if not path or not start_token or base == "":
            parser.error("none of these is a run folder: give --text, --start-token and the name of the --base")
    models = {}
    if options.base is not None:
        models["base"] = resolve_base(base)
    for folder in options.folders:
        models[folder.name] = folder / "export" if (folder / "export").is_dir() else folder
    if not models:
        parser.error("nothing to serve: give run folders, or --base NAME")

    text = "\n\n".join(read_documents([path]))
    chunks = [text[i : i + options.characters] for i in range(0, len(text) - options.characters, options.characters)]
    requests = [chunks[i : i + options.concurrency] for i in range(0, len(chunks), options.concurrency)]
    needed = options.rounds * (2 + 3 * options.repeats)
    if len(requests) < needed or len(requests[needed - 1]) < options.concurrency:
        parser.error(f"{path}: too short: {needed * options.concurrency} times {options.characters} characters")

    results: dict[str, dict[str, Any]] = {}
    times: dict[str, Times] = {name: {rate: [] for rate in RATES} for name in models}
    for turn in range(options.rounds):
        for name, folder in models.items():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            start = tokenizer.convert_tokens_to_ids(start_token)
            results[name] = sizes(tokenizer, folder, text)
            of_turn = iter(requests[turn * (needed // options.rounds) :])
            with Server(folder, max_model_len=LENGTH) as server:
                measure(server, tokenizer, start, of_turn, results[name], times[name], options)
            print(f"{name}, turn {turn + 1}: load {os.getloadavg()[0]:.1f}", flush=True)
    for name, rates in times.items():
        results[name] |= {rate: statistics.median(values) for rate, values in rates.items()}
        results[name]["spread"] = {rate: [min(values), max(values)] for rate, values in rates.items()}
    print(table(results))
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "versions": {package: version(package) for package in ("vllm", "torch", "transformers")},
        "text": str(path),
        "settings": {key: value for key, value in vars(options).items() if key not in ("folders", "text")},
    }
    print(json.dumps(about | {"models": results}, ensure_ascii=False))
    return 0


def sizes(tokenizer: PreTrainedTokenizerBase, folder: Path, text: str) -> dict[str, Any]:
    """What needs no server: `tokens_per_character`, `context_characters`."""
    (ids,) = encode_plain(tokenizer, [text])
    context = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    return {"tokens_per_character": len(ids) / len(text), "context_characters": round(context * len(text) / len(ids))}


def measure(
    server: Server,
    tokenizer: PreTrainedTokenizerBase,
    start: int,
    requests: Any,
    about: dict[str, Any],
    times: Times,
    options: argparse.Namespace,
) -> None:
    """Add a turn's rates to `times`; each request is a new one of `requests`."""

    def ids(texts: list[str]) -> list[list[int]]:
        return [[start, *row] for row in encode_plain(tokenizer, texts)]

    def seconds(work: Any, *arguments: Any, **keywords: Any) -> tuple[float, Any]:
        clock = time.perf_counter()
        result = work(server.base_url, server.model, *arguments, **keywords)
        return time.perf_counter() - clock, result

    for _ in range(2):  # the first requests compile, or meet cold caches
        seconds(client.answers, ids(next(requests)), max_tokens=2)
    for _ in range(options.repeats):
        texts = next(requests)
        took, _ = seconds(client.answers, ids(texts), max_tokens=1)
        times["reading"].append(sum(map(len, texts)) / took)
        texts = next(requests)
        took, _ = seconds(client.many_logprobs, ids(texts))
        times["scoring"].append(sum(map(len, texts)) / took)
        prompts = [text[:PROMPT] for text in next(requests)]
        extra = {"ignore_eos": True}
        took, found = seconds(client.answers, ids(prompts), max_tokens=options.tokens, extra_body=extra)
        assert all(reason == "length" for _, reason in found), "the number of tokens is fixed"
        rate = len(prompts) * options.tokens / took
        times["tokens_written"].append(rate)
        times["writing"].append(rate / about["tokens_per_character"])
        times["writing_own"].append(sum(len(text.replace("\ufffd", "")) for text, _ in found) / took)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: every figure, and in brackets its ratio to the first model's."""
    titles = RATES | SIZES
    lines = ["| model | " + " | ".join(titles.values()) + " |", "|" + " --- |" * (len(titles) + 1)]
    first = next(iter(results.values()))
    for name, figures in results.items():
        cells = [f"{figures[key]:.4g} ({figures[key] / first[key]:.2f})" for key in titles]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
