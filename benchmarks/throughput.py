"""Tokens per second, memory and shares of a step, beside Hugging Face Trainer: `python benchmarks/throughput.py`.

    python benchmarks/throughput.py --model smollm2-135m --length 512 --micro-batch 2
    python benchmarks/throughput.py --cuda --model 135m --length 2048 --micro-batch 16 --compile --steps 20 --warmup 5
    python benchmarks/throughput.py --cuda --model 1b --length 2048 --micro-batch 8 --compile --steps 20 --warmup 5

Arms, each a process of its own, taking turns; the medians over the turns are given:

- ours: `train_step` on a module of `sharded`, one rank;
- trainer: `transformers.Trainer` on the same model folder and the same packed rows, restarted positions included, with
  its best settings: bf16 autocast, fused AdamW, SDPA, compiled or not as ours is;
- collator: the same, and each batch is switched word by word as it is collated, as the released PreAlign collator does
  (the plain loop of benchmarks/codeswitch.py, with made-up words, since only its cost counts here).

Tokens are random and documents have log-normal lengths (median 400 tokens): neither changes the work. Compute time is
wall time on CUDA, and on CPU the CPU time of the process at one thread, so that other load does not count. MFU is
(6 N + 12 L d T) tokens / (seconds * peak): N parameters without the input embedding of an untied model, L blocks of
width d, T tokens a row, nothing for what is computed again. The peak is 989 TFLOP/s (dense bf16) on H100 and H200, and
else the best of several matrix products measured in the same process. Peak memory is CUDA's allocated maximum, on CPU
the resident set from the first step on.

Trainer needs `accelerate`, which prealign_cpt does not (pip install accelerate). The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if "--cuda" not in sys.argv:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

ARMS = ("ours", "trainer", "collator", "shares")
START = 0
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3},
    "1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
}  # fmt: skip
"""Llama models with random weights, tied but for the last: a small one, the shapes of SmolLM2-135M, Llama-3.2-1B and
Llama-3.1-8B."""


def main() -> None:
    options = parse()
    if options.variant:
        print(json.dumps(run_variant(options)), flush=True)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_model(options.model, folder)
        make_rows(folder / "rows", model, options)
        found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in options.arms}
        for turn in range(options.turns):
            for variant in [arm for arm in options.arms if arm != "shares"]:
                figures = child(variant, model, folder)
                print(f"turn {turn + 1}, {variant}: {figures['tokens_per_second']:,.1f} tokens/s, "
                      f"{figures['peak_mb']:,.0f} MB", flush=True)  # fmt: skip
                found[variant].append(figures)
        if "shares" in options.arms:
            found["shares"].append(child("shares", model, folder))
    print(json.dumps(summary(found, options)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help=f"a base model or folder, or {', '.join(SHAPES)}")
    parser.add_argument("--cuda", action="store_true", help="on the GPU; otherwise on one CPU thread")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--micro-batch", type=int, default=2, help="rows of a forward pass")
    parser.add_argument("--accumulate", type=int, default=1, help="forward passes of a step")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a turn")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint-activations", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--variant", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_model(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder of a base model, or a new one with random weights, made on the GPU where there is one."""
    if name not in SHAPES:
        from prealign_cpt.model.base import resolve_base

        return resolve_base(name)
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**{"tie_word_embeddings": True, "max_position_embeddings": 8192} | SHAPES[name])
    torch.set_default_dtype(dtype)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "model")
    return folder / "model"


def make_rows(path: Path, model: Path, options: argparse.Namespace) -> None:
    """Packed rows as the data stage writes them, enough for a turn."""
    random = np.random.default_rng(0)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    count = (options.warmup + options.steps) * options.micro_batch * options.accumulate
    rows = random.integers(1, vocabulary, size=count * options.length, dtype=np.int32)
    rows[np.cumsum(np.maximum(8, random.lognormal(np.log(400), 1.0, size=len(rows) // 8)).astype(int)) % len(rows)] = 0
    np.save(path.with_name(path.name + ".inputs.npy"), rows.reshape(count, options.length))


def child(variant: str, model: Path, folder: Path) -> dict[str, Any]:
    """Run one variant in a process of its own."""
    arguments = [*sys.argv[1:], "--variant", variant, "--model", str(model), "--folder", str(folder)]
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def run_variant(options: argparse.Namespace) -> dict[str, Any]:
    return (ours if options.variant in ("ours", "shares") else trainer)(options)


class Clock:
    """Compute time of steps: call `tick` after each one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.cuda, self.tokens = options.cuda, options.micro_batch * options.accumulate * options.length
        self.warmup, self.times = options.warmup, [self.now()]

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def tick(self) -> None:
        self.times.append(self.now())

    def figures(self) -> dict[str, Any]:
        from prealign_cpt.run.folder import peak_mb

        seconds = np.diff(self.times)[self.warmup :].tolist()
        peak = torch.cuda.max_memory_allocated() / 1e6 if self.cuda else peak_mb()
        rate = self.tokens / statistics.median(seconds)
        return {"seconds": seconds, "tokens_per_second": rate, "peak_mb": peak}


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """The product's own steps; with the arm "shares" each part of a step is timed, which costs some waiting on CUDA."""
    from prealign_cpt.data.mixture import Mixture, PackedText
    from prealign_cpt.model.world import process_group
    from prealign_cpt.recipe.schema import Train
    from prealign_cpt.run.folder import StageClock
    from prealign_cpt.train import checkpoint, loop
    from prealign_cpt.train.optim import make_optimizer
    from prealign_cpt.train.shard import sharded
    from prealign_cpt.train.step import SpikeGuard

    device = torch.device("cuda", 0) if options.cuda else torch.device("cpu")
    steps = options.warmup + options.steps
    recipe = Train(
        steps=steps, sequences=options.micro_batch * options.accumulate, micro_batch=options.micro_batch, lr=1e-4,
        warmup=0.0, decay=0.0, precision=options.precision, eval_every=steps, save_every=steps,
    )  # fmt: skip
    with process_group(device) as world:
        module = sharded(Path(options.model), world, recipe.precision, options.checkpoint_activations, options.compile)
        optimizer = make_optimizer(module, recipe)
        mixture = Mixture([PackedText(options.folder)], [], 0.0, seed=0)
        StageClock()  # the peak of memory counts from here
        clock, guard = Clock(options), SpikeGuard()
        parts: dict[str, list[float]] = {}
        if options.variant == "shares":
            measure(mixture, "rows", "data", parts, clock)
            measure(module, "forward", "forward", parts, clock)
            measure(torch.Tensor, "backward", "backward", parts, clock)
            measure(torch.nn.utils, "clip_grad_norm_", "clip", parts, clock)
            measure(optimizer, "step", "optimizer", parts, clock)
        for step in range(steps):
            loop.train_step(module, optimizer, mixture, step, recipe, START, world, guard)
            clock.tick()
        figures = clock.figures()
        figures |= {"model": describe(module.model, options), "peak_flops": peak_flops(options)}
        if options.variant != "shares":
            return figures
        total = sum(figures["seconds"])
        figures["shares"] = {
            name: sum(times[len(times) * options.warmup // steps :]) / total for name, times in parts.items()
        }
        began = time.monotonic()
        checkpoint.snapshot(module, optimizer)
        figures["checkpoint_stall_seconds"] = time.monotonic() - began
        began = time.monotonic()
        checkpoint.write(options.folder / "saved", 1, checkpoint.snapshot(module, optimizer), {"inputs": {}}, world)
        figures["checkpoint_seconds"] = time.monotonic() - began
        return figures


def measure(owner: Any, name: str, part: str, parts: dict[str, list[float]], clock: Clock) -> None:
    """Time every call of `owner.name`."""
    plain: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        began = clock.now()
        found = plain(*arguments, **named)
        parts.setdefault(part, []).append(clock.now() - began)
        return found

    setattr(owner, name, timed)


def trainer(options: argparse.Namespace) -> dict[str, Any]:
    """The same rows, model and optimizer under transformers.Trainer."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from prealign_cpt.data.mixture import Mixture, PackedText, positions
    from prealign_cpt.run.folder import StageClock

    steps, size = options.warmup + options.steps, options.micro_batch * options.accumulate
    mixture = Mixture([PackedText(options.folder)], [], 0.0, seed=0)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False  # or documents would see each other
    if options.variant == "collator":
        switch_row = word_loop(model.config.vocab_size)

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return steps * size

        def __getitem__(self, n: int) -> torch.Tensor:
            return mixture.rows([n])[0][0]

    def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = labels = torch.stack(rows)
        if options.variant == "collator":
            switched = [switch_row(row.tolist()) for row in rows]
            inputs, labels = (torch.tensor([pair[k][: options.length] for pair in switched]) for k in (0, 1))
        return {"input_ids": inputs, "labels": labels, "position_ids": positions(inputs, START)}

    class Ticks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            StageClock()
            clock.times = [clock.now()]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    recomputed = options.checkpoint_activations != "none"
    arguments = TrainingArguments(
        output_dir=str(options.folder / "trainer"), max_steps=steps, per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.accumulate, learning_rate=1e-4, lr_scheduler_type="constant",
        weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused",
        bf16=options.precision == "bf16", use_cpu=not options.cuda, torch_compile=options.compile,
        gradient_checkpointing=recomputed,
        gradient_checkpointing_kwargs={"use_reentrant": False} if recomputed else None,
        dataloader_num_workers=2 if options.cuda else 0, train_sampling_strategy="sequential", save_strategy="no",
        logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    clock = Clock(options)
    Trainer(model=model, args=arguments, train_dataset=Rows(), data_collator=collate, callbacks=[Ticks()]).train()
    return clock.figures()


def word_loop(vocabulary: int) -> Callable[[list[int]], tuple[list[int], list[int]]]:
    """The released collator's loop over made-up words: 60 % of tokens begin a word, 20 % of tokens are listed."""
    from benchmarks.codeswitch import collator

    begins = (np.random.default_rng(1).random(vocabulary) < 0.6).tolist()
    table: Any = {(i,): [(i, i + 1)] for i in range(0, vocabulary - 1, 5)}
    return lambda ids: collator(ids, begins, table, 0.05)


def describe(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Size, and floating-point operations of a token by the formula at the top."""
    config, count = model.config, sum(p.numel() for p in model.parameters())
    worked = count if config.tie_word_embeddings else count - config.vocab_size * config.hidden_size
    flops = 6 * worked + 12 * config.num_hidden_layers * config.hidden_size * options.length
    return {"parameters": count, "flops_per_token": flops}


def peak_flops(options: argparse.Namespace) -> float:
    """FLOP/s that the device can reach."""
    if options.cuda and any(name in torch.cuda.get_device_name() for name in ("H100", "H200")):
        return 989e12
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    best, clock = 0.0, Clock(options)
    for n in (1024, 2048) if not options.cuda else (8192,):
        a = torch.randn(n, n, dtype=dtype, device="cuda" if options.cuda else "cpu")
        a @ a
        for _ in range(3):
            began = clock.now()
            a @ a
            best = max(best, 2 * n**3 / (clock.now() - began))
    return best


def summary(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians over the turns, ratios of each turn's variants, and the shares of our step."""
    parts, result = found["ours"][0], {}
    arms = [arm for arm in options.arms if arm != "shares"]
    for variant in arms:
        rates = [turn["tokens_per_second"] for turn in found[variant]]
        rate = statistics.median(rates)
        result[variant] = {
            "tokens_per_second": round(rate, 2), "lowest": round(min(rates), 2), "highest": round(max(rates), 2),
            "peak_mb": round(statistics.median(turn["peak_mb"] for turn in found[variant]), 1),
            "mfu": round(rate * parts["model"]["flops_per_token"] / parts["peak_flops"], 4),
        }  # fmt: skip
    named: dict[str, Any] = {
        f"{key}_of_{variant}": [round(a[key] / b[key], 3) for a, b in zip(found["ours"], found[variant], strict=True)]
        for variant in arms[1:]
        for key in ("tokens_per_second", "peak_mb")
    }
    result |= {
        "ratios": {key: {"median": statistics.median(values), "turns": values} for key, values in named.items()},
        "model": parts["model"], "peak_tflops": round(parts["peak_flops"] / 1e12, 3),
        "settings": {key: value for key, value in vars(options).items() if key not in ("variant", "folder")},
        "device": torch.cuda.get_device_name() if options.cuda else "cpu", "torch": torch.__version__,
    }  # fmt: skip
    for timed in found.get("shares", []):
        shares = {name: round(share, 4) for name, share in timed["shares"].items()}
        stall, step = timed["checkpoint_stall_seconds"], statistics.median(timed["seconds"])
        result["shares"] = shares | {"rest": round(1 - sum(timed["shares"].values()), 4)}
        result["checkpoint"] = {
            "stall_seconds": round(stall, 3), "seconds": round(timed["checkpoint_seconds"], 3),
            "stall_of_100_steps": round(stall / (100 * step), 5),
        }  # fmt: skip
    return result


if __name__ == "__main__":
    main()
