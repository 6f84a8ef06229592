"""What initializers cost: CPU seconds and peak memory for 30,000 new tokens on an untied 32k x 1024 pair of matrices.

    python benchmarks/initializers.py --target german.txt --english english.txt --lexicon lexicons/en-de.tsv \
        --peers-python PATH --work FOLDER

The tables are random, which costs the same; the texts are real: a byte-level BPE tokenizer of 32,000 tokens is trained
on the English text and grown on the target text, once per work folder. Every method runs in a process of its own on one
thread. Counted are the CPU seconds from texts and tables to both matrices, without imports, loading and saving, but
with word vectors where a method needs them; the peak is that of the whole process, imports included (about 0.5 GB).
`--peers-python` is an interpreter that has the peers' packages, see benchmarks/peers.py; without it they are left out.
Results go to benchmarks/results/initializers.jsonl, one method a line; a method that outlasts `--limit` has no figures.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.align.lexicon_rows import MAX_BYTES, TextStatistics
from prealign_cpt.align.rows import static_rows
from prealign_cpt.data.codeswitch import token_texts
from prealign_cpt.lab.objectives.vecmap import vecmap_rows
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.recipe.schema import Align
from prealign_cpt.text.reader import read_documents
from prealign_cpt.vocab.grow import grow_tokenizer

OLD, HIDDEN, DOCUMENTS = 32_000, 1_024, 20_000
OURS = ["mean", "subword", "lexicon", "subword+lexicon", "vecmap"]
PEERS = ["random", "noisy-mean", "hf-mean", "wechsel", "focus", "trans-tokenizers"]
RESULTS = Path(__file__).parent / "results" / "initializers.jsonl"


def prepare(arguments: argparse.Namespace) -> None:
    """The base model with random tables and the grown tokenizer, unless they are there."""
    base, vocab = arguments.work / "base", arguments.work / "vocab"
    if (vocab / "tokenizer.json").is_file():
        return
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=OLD,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(islice(read_documents([arguments.english]), DOCUMENTS), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(base)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=8,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(base)
    vocab.mkdir(parents=True, exist_ok=True)
    growth = grow_tokenizer(
        base,
        islice(read_documents([arguments.target]), DOCUMENTS),
        islice(read_documents([arguments.english]), DOCUMENTS),
        arguments.new,
        vocab,
    )
    print(f"{growth.first_id} old tokens, {len(growth.tokens)} new ones", flush=True)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One of our methods, in this process."""
    base, grown = (AutoTokenizer.from_pretrained(arguments.work / name) for name in ("base", "vocab"))
    texts = token_texts(grown)[len(base) :]
    torch.manual_seed(0)
    tables = torch.randn(len(base), HIDDEN), torch.randn(len(base), HIDDEN)
    pairs = read_pairs(arguments.lexicon)
    began = time.process_time()
    statistics = TextStatistics(read_documents([arguments.target]), read_documents([arguments.english]))
    if arguments.one == "vecmap":
        vecmap_rows(base, grown, pairs, statistics.target_text, list(tables), 0)
        provenance = ["file"] * len(texts)
    else:
        align = Align(init=arguments.one, steps=0)
        provenance = static_rows(align, texts, base, grown, pairs, *tables, statistics).provenance
    seconds = time.process_time() - began
    return {
        "method": arguments.one,
        "cpu_s": round(seconds, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows": {kind: provenance.count(kind) for kind in sorted(set(provenance))},
    }


def run(name: str, command: list[str], limit: float) -> dict[str, Any]:
    """A method in a process of its own; its last line of output is its result."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return {"method": name, "cpu_s": None, "peak_mb": None, "failure": f"stopped after {limit:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"method": name, "cpu_s": None, "peak_mb": None, "failure": f"exit {done.returncode}: {lines[-1]}"}
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"method": name}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True, help="plain text in the target language")
    parser.add_argument("--english", type=Path, required=True, help="plain English text")
    parser.add_argument("--lexicon", type=Path, required=True, help="TSV, English to target")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokenizers and rows")
    parser.add_argument("--new", type=int, default=30_000, help="new tokens")
    parser.add_argument("--peers-python", help="interpreter that has the peers' packages")
    parser.add_argument("--only", nargs="+", help="methods to run; others keep their lines in the results")
    parser.add_argument("--limit", type=float, default=3600, help="seconds a method may take")
    parser.add_argument("--one", choices=OURS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    prepare(arguments)
    texts = ["--target", arguments.target, "--english", arguments.english, "--lexicon", arguments.lexicon]
    commands = {
        f"ours: {name}": [sys.executable, __file__, *texts, "--work", arguments.work, "--one", name] for name in OURS
    }
    if arguments.peers_python:
        folders = ["--base", arguments.work / "base", "--vocab", arguments.work / "vocab"]
        inputs = ["--text", arguments.target, "--english-text", arguments.english, "--lexicon", arguments.lexicon]
        inputs += ["--max-bytes", MAX_BYTES]  # word vectors from as much text as ours
        script = Path(__file__).with_name("peers.py")
        for name in PEERS:
            out = ["--out", arguments.work / f"{name}.safetensors"]
            commands[f"peer: {name}"] = [arguments.peers_python, script, name, *folders, *inputs, *out]
    results = {}
    if arguments.only and RESULTS.is_file():
        results = {(r := json.loads(line))["method"]: r for line in RESULTS.read_text(encoding="utf-8").splitlines()}
    for name, command in commands.items():
        if arguments.only and name not in arguments.only:
            continue
        results[name] = run(name, [str(part) for part in command], arguments.limit)
        print(json.dumps(results[name]), flush=True)
        # After every method, so that a stopped run keeps what it has.
        RESULTS.write_text("".join(json.dumps(result) + "\n" for result in results.values()), encoding="utf-8")
    print("| method | CPU s | peak MB | note |\n|---|---|---|---|")
    for result in results.values():
        note = ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("method", "cpu_s", "peak_mb"))
        print(f"| {result['method']} | {result['cpu_s']} | {result['peak_mb']} | {note} |")


if __name__ == "__main__":
    main()
