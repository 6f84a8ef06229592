"""What a model and its training take, what this machine has, and how to train so that it fits."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from prealign_cpt.model.load import load_whole

BYTES_A_PARAMETER = {"adamw": 18, "adamw8bit": 12}
"""fp32 weight and gradient, two moments (4 bytes each, or 1), and a bf16 copy, of which a part lives at a time."""

RESERVE = 2e9
"""Bytes for the framework and for activations, if they are computed again block by block."""


@dataclass(frozen=True)
class Machine:
    """Where training will run."""

    kind: str
    """ "GPU" or "CPU"."""
    devices: int
    bytes: float
    """Free memory of one device."""


def machine() -> Machine:
    """This machine: its GPUs, or its free RAM."""
    if torch.cuda.is_available():
        free = min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
        return Machine("GPU", torch.cuda.device_count(), float(free))
    return Machine("CPU", 1, free_ram())


def free_ram() -> float:
    """Bytes of RAM that a process may still take: MemAvailable of Linux, else all there is."""
    try:
        with open("/proc/meminfo") as file:
            found = {line.split(":")[0]: line.split()[1] for line in file}
        return int(found["MemAvailable"]) * 1024.0
    except (OSError, KeyError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def num_parameters(base: Path) -> int:
    """Numbers in a model folder's tensors, without loading them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def fits(parameters: int, here: Machine) -> tuple[dict[str, str], str]:
    """Recipe keys with which full training fits into a machine, and a line that says what it takes.

    The numbers are the formula's, 18 bytes a parameter or 12 with 8-bit moments, spread over the devices (FSDP), and
    2 GB beside them on each; activations of long sequences come on top.
    """
    told = f"{parameters / 1e6:,.0f} M parameters; "
    for optimizer, size in BYTES_A_PARAMETER.items():
        need = parameters * size / here.devices + RESERVE
        if need <= here.bytes:
            keys = {} if optimizer == "adamw" else {"train.optimizer": optimizer}
            if need > here.bytes / 2:
                keys["train.checkpoint_activations"] = "full"
            told += f"full training with {optimizer} takes about {need / 1e9:.1f} GB"
            return keys, f"{told} of {here.bytes / 1e9:.1f} GB free on each of {here.devices} {here.kind}(s)"
    devices = int(parameters * BYTES_A_PARAMETER["adamw8bit"] // max(here.bytes - RESERVE, 1e9)) + 1
    return (
        {"train.optimizer": "adamw8bit", "train.checkpoint_activations": "full"},
        f"{told}warning: full training does not fit: {need / 1e9:.0f} GB with 8-bit moments, {here.bytes / 1e9:.1f} GB "
        f"free on each of {here.devices} {here.kind}(s); take a smaller base, or {devices} devices like this",
    )


def load_to_measure(base: Path) -> PreTrainedModel | None:
    """The base for a few measurements: in fp32 where that takes less than half of the free RAM, in bf16 where that
    does; None where neither fits."""
    parameters, free = num_parameters(base), free_ram()
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        if parameters * size < free / 2:
            return load_whole(base, dtype).eval()
    return None
