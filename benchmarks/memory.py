"""The memory formula against what ranks held: `python benchmarks/memory.py [--model 135m] [--ranks 1 2 4]`.

    python benchmarks/memory.py --model 135m --ranks 1 2 4 --length 64 --micro-batch 2
    python benchmarks/memory.py --cuda --model 8b --methods qlora --length 2048 --micro-batch 2 --card 24

A Llama of random weights (shapes of benchmarks/throughput.py, and Llama-3.1-8B's in bf16) is trained for three steps of
two micro-batches, once for every method, setting of activations and number of ranks, each in processes of their own. Of
each rank the most bytes of tensors are taken from the loading on: on CUDA the allocator's own maximum, on a CPU what
the process got from the system beyond what it had before. The formula is `peak` of
prealign_cpt/advise/memory.py. New tokens are the last 1,024 of the vocabulary.

One JSON object a case: {"model", "method", "activations", "ranks", "tokens" (of a micro-batch), "formula_mb",
"measured_mb" (of each rank), "ratio" (largest measured / formula), "error"}, on CUDA also "reserved_mb" (taken from the
driver) and "tokens_per_second" of the last step. `--card` caps the allocator at so many GB.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if "--cuda" not in sys.argv:
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}

import numpy as np
import torch

NEW = 1024
MB = 1e6


def main() -> None:
    options = parse()
    if options.rank_folder:
        print(json.dumps(measure(options)), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=options.work) as place:
        from benchmarks.throughput import make_model

        folder = make_model(options.model, Path(place), torch.bfloat16 if options.model == "8b" else torch.float32)
        vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
        rows = np.random.default_rng(5).integers(1, vocabulary, size=(64, options.length)).astype(np.int32)
        rows[:, 0] = 0
        np.save(folder / "text.inputs.npy", rows)
        for ranks in options.ranks:
            for method in options.methods:
                for recomputed in options.activations:
                    print(json.dumps(case(options, folder, method, recomputed, ranks)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="135m", help="a shape of benchmarks/throughput.py")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", default=["full"], help="full, full8bit, lora, qlora, rows")
    parser.add_argument("--activations", nargs="+", default=["none"])
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--card", type=float, default=0.0, help="GB that the allocator may take")
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--work", type=Path, default=None, help="where the model is written")
    parser.add_argument("--rank-folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def case(options: argparse.Namespace, folder: Path, method: str, recomputed: str, ranks: int) -> dict[str, Any]:
    """One setting, measured by processes of its own, beside the formula's figure."""
    from prealign_cpt.advise.memory import Setting, peak, shape_of

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    arguments = [*sys.argv[1:], "--methods", method, "--activations", recomputed, "--rank-folder", str(folder)]
    processes = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        processes.append(
            subprocess.Popen([sys.executable, __file__, *arguments], env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )  # fmt: skip
    told = [process.communicate() for process in processes]
    how = Setting(
        method="full" if method == "full8bit" else method,  # type: ignore[arg-type]
        optimizer="adamw8bit" if method == "full8bit" else "adamw", shards=ranks,
        offload=options.offload, tokens=options.micro_batch * options.length, recomputed=recomputed,  # type: ignore[arg-type]
        width=2 if options.precision == "bf16" else 4, on_cpu=not options.cuda, new_rows=NEW,
    )  # fmt: skip
    parts = peak(shape_of(folder), how)
    result: dict[str, Any] = {
        "model": options.model, "method": method, "activations": recomputed, "ranks": ranks, "tokens": how.tokens,
        "precision": options.precision, "offload": options.offload, "card_gb": options.card,
        "formula_mb": round(parts["all"] / MB, 1), "parts_mb": {k: round(v / MB, 1) for k, v in parts.items()},
        "device": torch.cuda.get_device_name() if options.cuda else "cpu", "torch": torch.__version__,
    }  # fmt: skip
    if any(process.returncode for process in processes):
        errors = [lines[-1] for _, text in told if (lines := text.strip().splitlines())]
        return result | {"error": errors[0][:300] if errors else "no word"}
    found_by_rank = [json.loads(output.strip().splitlines()[-1]) for output, _ in told]
    measured = [one.pop("measured_mb") for one in found_by_rank]
    return (
        result | {"measured_mb": measured, "ratio": round(max(measured) / result["formula_mb"], 3)} | found_by_rank[0]
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What one rank held."""
    from functools import partial

    from prealign_cpt.data.mixture import Mixture, PackedText
    from prealign_cpt.model.world import process_group
    from prealign_cpt.recipe.schema import Train
    from prealign_cpt.train.adapters import prepare
    from prealign_cpt.train.optim import make_optimizer
    from prealign_cpt.train.shard import sharded
    from prealign_cpt.train.step import SpikeGuard, train_step

    device = torch.device("cuda", 0) if options.cuda else torch.device("cpu")
    if options.card:
        torch.cuda.set_per_process_memory_fraction(options.card * 1e9 / torch.cuda.mem_get_info()[1])
    folder, (method,), (recomputed,) = options.rank_folder, options.methods, options.activations
    size = int(os.environ["WORLD_SIZE"])
    recipe = Train(
        steps=3, sequences=2 * size * options.micro_batch, micro_batch=options.micro_batch, lr=1e-4, warmup=0.0,
        decay=0.0, eval_every=9, save_every=9, precision=options.precision, checkpoint_activations=recomputed,
        method="full" if method == "full8bit" else method, optimizer="adamw8bit" if method == "full8bit" else "adamw",
    )  # fmt: skip
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    first_new = None if recipe.method == "full" else vocabulary - NEW
    text = Mixture([PackedText(folder)], [], 0.0, seed=3)
    with process_group(device, timeout_minutes=5) as world, Resident(sample=not options.cuda) as resident:
        module = sharded(
            folder, world, recipe.precision, recomputed,
            prepare=partial(prepare, recipe=recipe, first_new=first_new, seed=1), offload=options.offload,
        )  # fmt: skip
        optimizer = make_optimizer(module, recipe, first_new)
        for step in range(recipe.steps):
            began = time.perf_counter()
            done = train_step(module, optimizer, text, step, recipe, 0, world, SpikeGuard())
            seconds = time.perf_counter() - began
    if options.cuda:
        return {
            "measured_mb": round(torch.cuda.max_memory_allocated() / MB, 1),
            "reserved_mb": round(torch.cuda.max_memory_reserved() / MB, 1),
            "tokens_per_second": round(done.tokens / seconds, 1), "loss": round(done.loss, 3),
        }  # fmt: skip
    return {"measured_mb": round(resident.peak / MB, 1), "loss": round(done.loss, 3)}


class Resident:
    """The most memory that this process got beyond what it had, read a thousand times a second.

    Every large tensor is then a mapping of its own (MALLOC_MMAP_THRESHOLD_) that is given back when it is released,
    also by gloo's threads, whose releases torch's profiler does not see.
    """

    def __init__(self, sample: bool) -> None:
        self.peak, self.sample, self.over = 0.0, sample, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Resident":
        if self.sample:
            self.before = self._now()
            self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()

    def _watch(self) -> None:
        while not self.over.wait(0.001):
            self.peak = max(self.peak, self._now() - self.before)

    def _now(self) -> float:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
