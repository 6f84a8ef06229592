"""8-bit moments beside 32-bit ones, and 4-bit weights on two devices: `python benchmarks/gpu/eightbit.py [--cuda]`.

Three JSON objects:

    {"what": "adamw8bit", "losses": [32 bits, 8 bits], ...}    mean loss of the last steps of the same training
    {"what": "resumed", "equal": ...}                          a step behind a checkpoint, moments in 8 bits, bit by bit
    {"what": "nf4", "equal_codes", "equal_scales", ...}        one matrix quantised on the CPU and on the device
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prealign_cpt.data.mixture import Mixture, PackedText
from prealign_cpt.model.world import World, local_shard, process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train import checkpoint, stored
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import make_model

VOCAB, LENGTH = 512, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    device = torch.device("cuda", 0) if options.cuda else torch.device("cpu")
    with tempfile.TemporaryDirectory() as place, process_group(device, timeout_minutes=2) as world:
        folder = Path(place)
        make_model(VOCAB, hidden=256, layers=4, spread=0.05).save_pretrained(folder / "base")
        inputs = np.random.default_rng(5).integers(1, VOCAB, size=(16, LENGTH)).astype(np.int32)
        inputs[:, 0] = 0
        np.save(folder / "text.inputs.npy", inputs)
        found = {name: trained(folder, world, options.steps, name) for name in ("adamw", "adamw8bit")}
        losses = [float(np.mean(found[name]["losses"][-5:])) for name in found]
        peaks = [found[name]["state_bytes"] for name in found]
        told = {"losses": losses, "first": found["adamw"]["losses"][0], "bytes_of_moments": peaks}
        told["alike"] = abs(losses[0] - losses[1]) < 0.05
        print(json.dumps({"what": "adamw8bit"} | told), flush=True)
        print(json.dumps({"what": "resumed", "equal": found["adamw8bit"]["resumed"]}), flush=True)
    print(json.dumps({"what": "nf4"} | four_bits(device)), flush=True)


def trained(folder: Path, world: World, steps: int, optimizer_name: str) -> dict[str, Any]:
    """The losses of a training, and whether its last step is the same behind a checkpoint."""
    recipe = Train(
        steps=steps, sequences=4, micro_batch=4, lr=1e-3, warmup=0.1, decay=0.3, eval_every=999, save_every=999,
        optimizer=optimizer_name, precision="bf16",  # type: ignore[arg-type]
    )  # fmt: skip
    mixture = Mixture([PackedText(folder)], [], 0.0, seed=3)

    def start() -> tuple[Any, Any]:
        module = sharded(folder / "base", world, "bf16")
        return module, make_optimizer(module, recipe)

    def step(module: Any, optimizer: Any, number: int) -> float:
        return train_step(module, optimizer, mixture, number, recipe, 0, world, SpikeGuard()).loss

    module, optimizer = start()
    losses = [step(module, optimizer, number) for number in range(steps - 1)]
    path = checkpoint.write(
        folder / optimizer_name, steps - 1, checkpoint.snapshot(module, optimizer), {"inputs": {}}, world
    )
    losses.append(step(module, optimizer, steps - 1))
    expected = copy.deepcopy([local_shard(p).detach().cpu() for p in module.parameters()])
    size = sum(local_shard(t).nbytes for state in optimizer.state.values() for t in state.values())
    module, optimizer = start()
    stored.load(path, module, optimizer)
    step(module, optimizer, steps - 1)
    same = all(torch.equal(local_shard(p).cpu(), other) for p, other in zip(module.parameters(), expected, strict=True))
    return {"losses": losses, "resumed": same, "state_bytes": size}


def four_bits(device: torch.device) -> dict[str, Any]:
    """Codes, scales and the matrix read back, on the CPU and on the device."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    matrix = torch.randn(1, 1024 * 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = []
    for place in (torch.device("cpu"), device):
        packed, state = quantize_4bit(matrix.to(place), quant_type="nf4")
        found.append([t.cpu() for t in (packed.flatten(), state.absmax, dequantize_4bit(packed, state).flatten())])
    (codes, scales, values), (codes_there, scales_there, values_there) = found
    return {
        "equal_codes": float((codes == codes_there).float().mean()),
        "equal_scales": bool(torch.equal(scales, scales_there)),
        "equal_values": float((values == values_there).float().mean()),
        "largest_difference": float((values.float() - values_there.float()).abs().max()), "device": device.type,
    }  # fmt: skip


if __name__ == "__main__":
    main()
