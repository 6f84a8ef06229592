"""What a checkpoint costs: seconds that training waits, and seconds until it is published and verified.

    python benchmarks/checkpoint.py [--hidden 768 --layers 12 --vocab 32000] [--saves 5] [--folder /tmp]

A Llama with random weights and AdamW's moments, sharded over one rank; every save is of another step into the same
folder, of which the newest two are kept. The last line is one JSON object:

    {"parameters", "checkpoint_mb", "stall_seconds" (median), "save_seconds" (median: copied, written, hashed,
    published, read again), "blocking_seconds" (median of a save that is waited for), "saves", "torch", "threads"}
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prealign_cpt.model.world import choose_device, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train import checkpoint
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.saver import Saver
from prealign_cpt.train.shard import sharded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: the system's temporary one")
    options = parser.parse_args()
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        tie_word_embeddings=True,
    )
    recipe = Train(steps=options.saves, sequences=1, precision="fp32", eval_every=1, save_every=1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name, process_group(choose_device("auto")) as world:
        folder = Path(name)
        LlamaForCausalLM(config).save_pretrained(folder / "base")
        module = sharded(folder / "base", world, "fp32")
        optimizer = make_optimizer(module, recipe)
        about = {"inputs": {}}
        stalls, saves, blocking = [], [], []
        with Saver(folder, 2, world) as saver:
            for step in range(1, options.saves + 1):
                began = time.monotonic()
                stalls.append(saver.save(step, module, optimizer, about))
                saver.wait()
                saves.append(time.monotonic() - began)
        for step in range(options.saves + 1, 2 * options.saves + 1):
            began = time.monotonic()
            checkpoint.write(folder, step, checkpoint.snapshot(module, optimizer), about, world)
            blocking.append(time.monotonic() - began)
            checkpoint.prune(folder, 2, {})
        size = sum(path.stat().st_size for path in (folder / f"step-{step:010d}").iterdir())
        print(
            json.dumps(
                {
                    "parameters": sum(p.numel() for p in module.parameters()),
                    "checkpoint_mb": round(size / 1e6, 1),
                    "stall_seconds": round(statistics.median(stalls), 3),
                    "save_seconds": round(statistics.median(saves), 3),
                    "blocking_seconds": round(statistics.median(blocking), 3),
                    "saves": options.saves,
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                }
            )
        )


if __name__ == "__main__":
    main()
