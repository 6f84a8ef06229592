"""Peak memory and time of the loss at a large vocabulary: `python benchmarks/loss_memory.py [--cuda]`.

Four ways from hidden states [N, D] and head [V, D] to the summed loss and both gradients, each in a process of its own:

- plain: all logits at once, in fp32, `cross_entropy`;
- recomputed: `chunked_nll`, whose backward pass computes the logits of each chunk again;
- along: `summed_nll`, which training uses: the gradient is taken chunk by chunk along with the value;
- fused: torch's `linear_cross_entropy` where it is there.

Memory is what a way needs beyond inputs and gradients: CUDA's allocated maximum, on CPU the resident set's. Loss and
gradients are compared with the plain way's. The last line is one JSON object; time on CPU is CPU time at one thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

if "--cuda" not in sys.argv:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.model.loss import chunked_nll, summed_nll
from prealign_cpt.run.folder import StageClock, peak_mb

WAYS = ("plain", "recomputed", "along", "fused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run(options)))
        return
    found = {}
    for way in WAYS:
        if way == "fused" and "linear_cross_entropy" not in dir(F):
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        found[way] = json.loads(lines[-1])
        print(way, found[way], flush=True)
    plain = found["plain"]
    for figures in found.values():
        figures["share_of_plain_memory"] = round(figures["memory_mb"] / plain["memory_mb"], 3)
        for key in ("loss", "hidden_norm", "head_norm"):
            figures[key + "_error"] = abs(figures[key] - plain[key]) / abs(plain[key])
    print(json.dumps({"ways": found, "settings": {k: v for k, v in vars(options).items() if k != "way"}}))


def run(options: argparse.Namespace) -> dict[str, float]:
    """One way: a warm-up on a few rows, then the whole."""
    device = "cuda" if options.cuda else "cpu"
    dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
    torch.manual_seed(0)
    hidden = torch.randn(options.positions, options.hidden, device=device).to(dtype).requires_grad_()
    head = (0.05 * torch.randn(options.vocabulary, options.hidden, device=device)).to(dtype).requires_grad_()
    labels = torch.randint(options.vocabulary, (options.positions,), device=device)
    loss(options.way, hidden[:8], labels[:8], head).backward()
    torch.autograd.grad(loss(options.way, hidden[:8], labels[:8], head), [hidden, head])
    now = time.process_time
    if options.cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        now = time.perf_counter
    StageClock()
    before, began = (torch.cuda.memory_allocated() / 1e6 if options.cuda else peak_mb()), now()
    value = loss(options.way, hidden, labels, head)
    value.backward()
    if options.cuda:
        torch.cuda.synchronize()
    seconds = now() - began
    peak = torch.cuda.max_memory_allocated() / 1e6 if options.cuda else peak_mb()
    assert hidden.grad is not None and head.grad is not None
    norms = {"hidden_norm": float(hidden.grad.double().norm()), "head_norm": float(head.grad.double().norm())}
    return {"memory_mb": round(peak - before, 1), "seconds": round(seconds, 3), "loss": float(value.detach())} | norms


def loss(way: str, hidden: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    if way == "plain":
        return F.cross_entropy((hidden @ head.T).float(), labels, reduction="sum")
    if way == "recomputed":
        return chunked_nll(hidden, labels, head).sum()
    if way == "along":
        return summed_nll(hidden, labels, head, labels)
    return F.linear_cross_entropy(hidden, head, labels, reduction="sum")


if __name__ == "__main__":
    main()
