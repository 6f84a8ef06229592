"""`prealign serve` and `prealign check` on the command line."""

import argparse
import json
import tomllib
from itertools import islice
from pathlib import Path
from typing import Any

from prealign_cpt.run.errors import PrealignError, RecipeError
from prealign_cpt.serving.command import DTYPES, POOLINGS, QUANTIZATIONS

MAX_TEXTS = 8

PASSED_ON = (
    *("task", "device", "dtype", "quantization", "pooling", "tensor_parallel", "data_parallel", "memory_share"),
    *("host", "port", "key_file", "served_model_name", "log", "start_limit", "drain"),
)
"""What `prealign serve` hands to `serve` as it is."""


def add_serve(parser: argparse.ArgumentParser) -> None:
    """The arguments of `prealign serve`."""
    add = parser.add_argument
    add("model", type=Path, help="a run folder or a Hugging Face folder")
    add("--task", choices=("generate", "embed", "both"), default="generate", help="both: two processes")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is a GPU")
    add("--dtype", choices=tuple(DTYPES), help="default: bf16 on CUDA, fp32 on a CPU")
    add("--quantization", choices=QUANTIZATIONS, help="bitsandbytes, on CUDA")
    add("--pooling", choices=POOLINGS, default="mean", help="of --task embed")
    add("--max-model-len", type=int, help="longest sequence (default: the run's recipe, or the model's limit)")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs for each copy of the model")
    add("--data-parallel", type=int, default=1, metavar="N", help="copies of the model")
    add("--memory-share", type=float, help="share of each GPU's memory")
    add("--host", default="127.0.0.1", help="any other than this machine needs a key")
    add("--port", type=int, default=8000, help="0 takes a free one; --task both takes the next too")
    add("--key-file", type=Path, help="the key, mode 0600 (default: PREALIGN_API_KEY, if set)")
    add("--served-model-name", help="the name to ask for (default: the folder's or the run's)")
    add("--log", type=Path, help="vLLM's output (default: a new temporary file)")
    add("--start-limit", type=float, default=300.0, help="seconds to start in")
    add("--drain", type=int, default=10, help="seconds for running requests at the end")
    _refuse_key(parser)


def add_check(parser: argparse.ArgumentParser) -> None:
    """The arguments of `prealign check`."""
    add = parser.add_argument
    add("url", help="such as http://127.0.0.1:8000/v1")
    add("texts", nargs="*", type=Path, help=f"files whose first {MAX_TEXTS} documents are compared (default: built in)")
    add("--model", type=Path, required=True, help="the exported folder, or its run folder")
    add("--task", choices=("generate", "embed"), default="generate")
    add("--dtype", choices=tuple(DTYPES), default="fp32", help="what the server computes in")
    add("--start-token", help="default: the run's recipe, or the tokenizer's")
    add("--tolerance", type=float, default=1e-5, help="for one log-probability, where rounding is smaller")
    add("--key-file", type=Path, help="the key (default: PREALIGN_API_KEY, if set)")
    _refuse_key(parser)


def _refuse_key(parser: argparse.ArgumentParser) -> None:
    for flag in ("--key", "--api-key"):
        parser.add_argument(flag, dest="bare_key", help=argparse.SUPPRESS)


def _check_key(options: argparse.Namespace) -> None:
    if options.bare_key is not None:
        raise RecipeError(
            "a key never stands on the command line, which every user of the machine can read: take a new one, and "
            "give it in a file (--key-file) or in PREALIGN_API_KEY"
        )


def run_serve(options: argparse.Namespace) -> int:
    """Serve until a signal; the exit code."""
    from prealign_cpt.serving.server import serve

    _check_key(options)
    arguments = {name: getattr(options, name) for name in PASSED_ON}
    arguments["max_model_len"] = options.max_model_len or _from_recipe(options.model, "serve", "max_model_len") or None
    return serve(model_folder(options.model), **arguments)


def run_check(options: argparse.Namespace) -> None:
    """Run all checks, print them as JSON, and raise what broke one."""
    from prealign_cpt.serving.key import read_key
    from prealign_cpt.serving.parity import CHECKS, TEXTS, run_checks
    from prealign_cpt.text.reader import read_documents

    _check_key(options)
    texts = list(islice(read_documents(options.texts), MAX_TEXTS)) if options.texts else list(TEXTS)
    folder = model_folder(options.model)
    start_token = options.start_token or _from_recipe(options.model, "base", "start_token")
    shared = {"task": options.task, "dtype": options.dtype, "tolerance": options.tolerance}
    checks: list[dict[str, Any]] = []
    broken: PrealignError | None = None
    try:
        for name, figures in run_checks(
            options.url, folder, texts, start_token, key=read_key(options.key_file), **shared
        ):
            checks.append({"check": name, "holds": True, **figures})
    except PrealignError as error:
        checks.append({"check": CHECKS[options.task][len(checks)], "holds": False, "problem": str(error)})
        broken = error
    print(json.dumps({"url": options.url, "model": str(options.model), "checks": checks}, ensure_ascii=False, indent=1))
    if broken is not None:
        raise broken


def model_folder(path: Path) -> Path:
    """The Hugging Face folder of a run, or the folder itself."""
    return path / "export" if (path / "export").is_dir() else path


def _from_recipe(model: Path, table: str, name: str) -> Any:
    """A key of the run's recipe; None where there is no run."""
    folder = model.resolve()
    for run in (folder, folder.parent):
        if (run / "recipe.toml").is_file():
            return tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8")).get(table, {}).get(name)
    return None
