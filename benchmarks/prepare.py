"""Preparing large text: seconds, rate and memory of the text and the data stage, beside the tokenizer alone.

python benchmarks/prepare.py TEXT... --megabytes 2000 --workers 2 --out benchmarks/results/prepare.jsonl

documents of TEXT, turned round at another word in each copy --> files of 100 MB
--text stage, data stage--> seconds, largest resident process
--the same documents through `tokenizers` in as many processes, a thread each--> seconds
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from prealign_cpt.data.build import build_data
from prealign_cpt.model.base import resolve_base
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.stage import build_text

FILE_BYTES = 100_000_000
DOCUMENT_BYTES = 3_000
"""Short documents are put together until they have so many."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--work", type=Path, default=Path("runs/prepare"), help="folder that is made, and removed")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.work.exists():
        shutil.rmtree(options.work)
    files = write(options.texts, options.megabytes * 1_000_000, options.work / "corpus")
    try:
        result = measure(options, files)
    finally:
        shutil.rmtree(options.work)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=1))


def write(texts: list[Path], size: int, folder: Path) -> list[Path]:
    """Files of JSON lines of about so many bytes in all."""
    folder.mkdir(parents=True)
    documents, joined = [], ""
    for document in read_documents(texts):
        joined += document + "\n"
        if len(joined.encode()) >= DOCUMENT_BYTES:
            documents.append(joined.split(" "))
            joined = ""
    written, copy = 0, 0
    found: list[Path] = []
    file = None
    while written < size:
        for number, words in enumerate(documents):
            turn = (copy * 131 + number) % len(words)
            text = " ".join(words[turn:] + words[:turn])
            if file is None or file.tell() >= FILE_BYTES:
                found.append(folder / f"{len(found):04}.jsonl")
                file = found[-1].open("w", encoding="utf-8")
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
        copy += 1
    if file is not None:
        file.close()
    return found


def measure(options: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """Both stages, then the tokenizer alone."""
    base, size = resolve_base(options.base), sum(path.stat().st_size for path in files)
    path = options.work / "recipe.toml"
    path.write_text(
        f'name = "run"\nlanguage = "German"\nout = "{options.work}"\nbase.model = "{base}"\nvocab.size = 0\n'
        'base.start_token = "<|endoftext|>"\ntext.target = ["corpus"]\ntext.english = ["corpus/0000.jsonl"]\n'
        "data.sequence_length = 1024\ndata.english_share = 0.0\ntrain.steps = 1000\ntrain.sequences = 64\n"
        "train.eval_every = 100\ntrain.save_every = 100\n",
        encoding="utf-8",
    )
    recipe = load_recipe(path)
    seconds = {}
    stages = {"text": partial(build_text, recipe), "data": partial(build_data, recipe, base, base, [])}
    for stage, build in stages.items():
        out = recipe.run / stage
        out.mkdir(parents=True)
        started = time.monotonic()
        build(out, recipe.run / f"tasks-{stage}", options.workers)
        seconds[stage] = round(time.monotonic() - started, 1)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    shards = sorted((recipe.run / "text" / "train" / "target").iterdir())
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        tokens = sum(pool.imap_unordered(partial(tokenize, base), shards))
    seconds["tokenizer alone"] = round(time.monotonic() - started, 1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("tokenizers", "transformers", "numpy")},
        "bytes": size,
        "workers": options.workers,
        "seconds": seconds,
        "tokens": tokens,
        "data_rate_of_the_tokenizers": round(seconds["tokenizer alone"] / seconds["data"], 3),
        "largest_process_mb": round(peak / 1000),
    }


def tokenize(base: Path, shard: Path) -> int:
    """Tokens of a shard, by the tokenizer alone."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer, count = Tokenizer.from_file(str(base / "tokenizer.json")), 0
    documents: Iterator[str] = read_documents([shard])
    while some := list(islice(documents, 256)):
        count += sum(len(one) for one in tokenizer.encode_batch_fast(some, add_special_tokens=False))
    return count


if __name__ == "__main__":
    main()
