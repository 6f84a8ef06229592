"""What a training step of the demo takes, as a share of what its matrix products alone would take.

    python benchmarks/demo_step.py launch/recipes/demo_de.toml --threads 1 2 --steps 8

Reads the finished stages `align` and `data` of the recipe's run, trains some steps in this process and writes nothing.
The bound: the bf16 products of one projection, forward and backward, on as many rows as a micro-batch has, timed in the
same process with the same threads, and scaled to all blocks and the head. Medians; a line of JSON for each number of
threads.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from transformers import AutoConfig, AutoTokenizer

from prealign_cpt.data.build import read_mixture
from prealign_cpt.lab.compare.budget import matmul_parameters
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.train.loop import train_step
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.spikes import SpikeGuard


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median over some rounds, after one to warm up."""
    work()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def products(folder: Path, rows: int) -> float:
    """Floating-point operations a second of a gate projection's three products in bf16 (output, both gradients)."""
    config = AutoConfig.from_pretrained(folder)
    width, inner = config.hidden_size, config.intermediate_size
    x, w, g = (torch.randn(shape).bfloat16() for shape in ((rows, width), (inner, width), (rows, inner)))
    return 3 * 2.0 * rows * width * inner / seconds(lambda: (x @ w.T, g @ w, g.T @ x), 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=8)
    options, flags = parser.parse_known_args()
    recipe = load_recipe(options.recipe, [*flags, "--train.composition_lr", "0"])
    align, length = recipe.run / "align", recipe.data.sequence_length
    tokenizer = AutoTokenizer.from_pretrained(align)
    for threads in options.threads:
        torch.set_num_threads(threads)
        with process_group(torch.device("cpu")) as world:
            module = sharded(align, world, recipe.train.precision)
            optimizer, guard = make_optimizer(module, recipe.train), SpikeGuard()
            mixture, start = read_mixture(recipe, recipe.run / "data"), start_token_id(tokenizer, recipe)
            one = seconds(
                lambda m=module, o=optimizer, x=mixture, s=start, w=world, g=guard: train_step(
                    m, o, x, 0, recipe.train, s, w, g
                ),
                options.steps,
            )
        rate = products(align, recipe.train.micro_batch * length)
        tokens = recipe.train.sequences * length
        bound = 6.0 * matmul_parameters(align) * tokens / rate
        found = {"threads": threads, "seconds": round(one, 3), "tokens_per_second": round(tokens / one)}
        found |= {"gflops_of_products": round(rate / 1e9), "bound_seconds": round(bound, 3)}
        print(json.dumps(found | {"share_of_bound": round(bound / one, 3)}), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
