"""From `torchrun` to the end of the first step on packed rows: `python benchmarks/startup.py [--model NAME]`.

The parent starts `torchrun --standalone` on this file; each rank then does what the training stage does: join the
group, read and shard the model, make the optimizer, make one step. Times of rank 0 in seconds since `torchrun` was
started, wall clock, and the CPU time of rank 0 beside them, which other load on the machine does not lengthen. The last
line is one JSON object; `besides_imports` leaves out torchrun's own start and this process's imports.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.time()
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a base model or folder")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if "STARTED" in os.environ:
        rank(options)
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.ranks)]
    environment = os.environ | {"STARTED": str(time.time()), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, __file__, *sys.argv[1:]], env=environment, check=True)


def rank(options: argparse.Namespace) -> None:
    """The start of one rank."""
    started = float(os.environ["STARTED"])
    times = {"python": (BEGAN - started, 0.0)}

    def note(name: str) -> None:
        times[name] = (time.time() - started, time.process_time())

    import numpy as np

    from prealign_cpt.data.mixture import Mixture, PackedText
    from prealign_cpt.model.base import resolve_base
    from prealign_cpt.model.world import choose_device, process_group
    from prealign_cpt.recipe.schema import Train
    from prealign_cpt.train.optim import make_optimizer
    from prealign_cpt.train.shard import sharded
    from prealign_cpt.train.step import SpikeGuard, train_step

    note("imports")
    recipe = Train(steps=1, sequences=options.ranks, micro_batch=1, eval_every=1, save_every=1)
    with process_group(choose_device(options.device)) as world, tempfile.TemporaryDirectory() as place:
        note("group")
        module = sharded(resolve_base(options.model), world, recipe.precision)
        note("model")
        optimizer = make_optimizer(module, recipe)
        note("optimizer")
        rows = np.random.default_rng(0).integers(1, 1000, size=(options.ranks, options.length), dtype=np.int32)
        np.save(Path(place) / "rows.inputs.npy", rows)
        mixture = Mixture([PackedText(Path(place))], [], 0.0, seed=0)
        train_step(module, optimizer, mixture, 0, recipe, 0, world, SpikeGuard())
        note("first_step")
        if world.rank == 0:
            found = {name: {"wall": round(wall, 2), "cpu": round(cpu, 2)} for name, (wall, cpu) in times.items()}
            besides = {kind: round(found["first_step"][kind] - found["imports"][kind], 2) for kind in ("wall", "cpu")}
            print(json.dumps({"since_start": found, "besides_imports": besides, "settings": vars(options)}), flush=True)


if __name__ == "__main__":
    main()
