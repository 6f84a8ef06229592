"""What a model and its training take, what this machine has, and how to train so that it fits.

    config.json --Shape--> peak(method, ranks, tokens) --beside Machine--> keys that fit, or a warning

The bytes of the method "full" are held against measured ones by tests/advise/test_memory.py; those of the others follow
from the same counts.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from prealign_cpt.model.load import blocks, load_whole
from prealign_cpt.model.loss import CHUNK
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Train

Method = Literal["full", "lora", "qlora", "rows"]
Recomputed = Literal["none", "selective", "full"]

RESERVE = 1.5e9
"""Bytes that a device loses to context, kernels' workspaces and fragments."""

NF4 = 0.5 + 4 / 64
"""Bytes of a number in 4 bits, with an fp32 scale for 64 of them."""

MOVING = 16
"""fp32 weight, gradient and two moments of what moves."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, as far as memory depends on them."""

    body: int
    """Parameters of the blocks and the last norm."""
    tables: int
    """Parameters with a row for each token: embedding, and head where it is not tied."""
    head: int
    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward part."""
    keys: int
    """Width of keys, and of values."""
    vocabulary: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.body + self.tables


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model is trained, as far as memory depends on it."""

    method: Method = "full"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    shards: int = 1
    """Ranks that share out one model: all, or those of a replica."""
    tokens: int = 4096
    """Of a micro-batch: rows times row length."""
    recomputed: Recomputed = "full"
    """As `train.checkpoint_activations`."""
    width: int = 2
    """Bytes of a number in the forward pass: 2 in bf16, 4 in fp32."""
    on_cpu: bool = False
    """Weights stay gathered between the forward and the backward pass there, and gloo copies what it reduces."""
    offload: bool = False
    """What a rank keeps stays in host memory, but for weights in 4 bits."""
    lora_rank: int = 16
    new_rows: int = 16_384
    """New tokens, whose rows move in every method."""


def peak(shape: Shape, how: Setting) -> dict[str, float]:
    """The most bytes of tensors that a rank holds in a training step, by what they are for; "all" is their sum.

    Kept: what stands on the rank all the time. Gathered: weights that are whole for a while. Beside them the largest of
    what comes one after the other: the loss (activations, the logits of a chunk, the head's gradient), the backward
    pass of the last block, and the gradients of the tables, which are reduced at the end.
    """
    kept, moving = _kept(shape, how)
    # Weights in 4 bits are never gathered; one matrix at a time is read out, and a second is its sum with the adapters.
    body = 0.0 if how.method == "qlora" else shape.body
    block = body / shape.layers
    whole = shape.tables + (body if how.on_cpu else 2 * block)
    whole += 2 * shape.hidden * shape.inner * (how.method in ("lora", "qlora"))
    tokens = min(how.tokens, CHUNK)
    # In bf16: logits, an fp32 copy that becomes the slope, and the slope rounded. In fp32 all are one.
    logits = tokens * shape.vocabulary * (8 if how.width == 2 else 4)
    activations = how.tokens * _activations(shape, how)
    tables_move = shape.tables if how.method == "full" else min(shape.tables, how.new_rows * shape.hidden * 2)
    block_moves = block if how.method == "full" else moving / shape.layers
    beside = {
        "loss": activations + logits + 4 * shape.head * (how.method == "full"),
        "blocks": activations + _reduced(block_moves, how) + how.width * shape.head * (how.method == "full"),
        "tables": _reduced(tables_move, how),
    }
    gathered = how.width * whole
    if how.offload:  # shards come to the device in fp32
        gathered += 4 * (shape.tables + 2 * block) / how.shards
    found = {**kept, "gathered": gathered, "passing": max(beside.values())}
    return found | {"all": sum(found.values())}


def _kept(shape: Shape, how: Setting) -> tuple[dict[str, float], float]:
    """Bytes of weights, gradients and moments of a rank, and how many parameters move."""
    if how.method == "full":
        n = shape.parameters / how.shards
        eight_bit = how.optimizer == "adamw8bit"
        moments = 8 * n if not eight_bit else (shape.body * (2 + 8 / 256) + 8 * shape.tables) / how.shards
        kept = {"weights": 4 * n, "gradients": 4 * n, "moments": moments}
        return dict.fromkeys(kept, 0.0) if how.offload else kept, shape.parameters
    rows = min(shape.tables, how.new_rows * shape.hidden * round(shape.tables / shape.head))
    adapters = 0.0
    if how.method != "rows":  # two matrices beside each of the seven of a block
        ends = 4 * shape.hidden + 2 * (shape.hidden + shape.keys) + 3 * (shape.hidden + shape.inner)
        adapters = float(how.lora_rank * shape.layers * ends)
    in_4bit = NF4 * shape.body * (how.method == "qlora")  # whole on every rank
    frozen = how.width * (shape.tables + shape.body * (how.method != "qlora")) / how.shards
    moving = (rows + adapters) / how.shards
    kept = {"weights": frozen + 4 * moving, "gradients": 4 * moving, "moments": 8 * moving}
    if how.offload:
        kept = dict.fromkeys(kept, 0.0)
    return kept | {"weights": kept["weights"] + in_4bit}, adapters


def _activations(shape: Shape, how: Setting) -> float:
    """Bytes for each token of a micro-batch that the backward pass needs; and those of one block that is computed
    again."""
    d, k, f, c = shape.hidden, shape.keys, shape.inner, how.width
    # Inputs of the projections, what enters attention and leaves it, four tensors of the feed-forward part, and what
    # enters the two norms, in fp32.
    everything = c * (8 * d + 4 * k + 4 * f) + (4 - c) * 2 * d
    each = {"none": everything, "selective": c * (5 * d + 2 * k + 2 * f), "full": c * d}[how.recomputed]
    return shape.layers * each + 3 * c * d + (0 if how.recomputed == "none" else everything)


def _reduced(parameters: float, how: Setting) -> float:
    """Bytes while a group's gradients are scattered: as autograd gives them, laid out in fp32, and this rank's sum."""
    if how.shards == 1:
        return parameters * 4
    return parameters * (how.width + 4 + 4 / how.shards + 4 * how.on_cpu)


def shape_of(base: Path) -> Shape:
    """The sizes of a model folder, without loading its weights."""
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    total = sum({id(p): p.numel() for p in model.parameters()}.values())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tables = head.numel() if head is embedding else head.numel() + embedding.numel()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * size
    return Shape(
        total - tables, tables, head.numel(), len(blocks(model)), config.hidden_size, config.intermediate_size, keys,
        len(head),
    )  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Where training will run."""

    kind: str
    """ "GPU" or "CPU"."""
    devices: int
    bytes: float
    """Free memory of one device."""
    host: float = 0.0
    """Free RAM beside GPUs."""


def machine() -> Machine:
    """This machine: its GPUs, or its free RAM."""
    if torch.cuda.is_available():
        free = min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
        return Machine("GPU", torch.cuda.device_count(), float(free), free_ram())
    return Machine("CPU", 1, free_ram())


def free_ram() -> float:
    """Bytes of RAM that a process may still take: MemAvailable of Linux, else all there is."""
    try:
        with open("/proc/meminfo") as file:
            found = {line.split(":")[0]: line.split()[1] for line in file}
        return int(found["MemAvailable"]) * 1024.0
    except (OSError, KeyError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def fits(shape: Shape, here: Machine) -> tuple[dict[str, Any], str]:
    """Recipe keys with which training fits into a machine, and a line that says what it takes.

    All devices share the model (FSDP); activations are those of one row of 4,096 tokens. The first that fits is taken,
    so what costs the least time stands first: recomputation, 8-bit moments, host memory.
    """
    told = f"{shape.parameters / 1e6:,.0f} M parameters; "
    place = f"{here.bytes / 1e9:.1f} GB free on each of {here.devices} {here.kind}(s)"

    def need(**how: Any) -> float:
        setting = Setting(shards=here.devices, on_cpu=here.kind == "CPU", **how)
        return peak(shape, setting)["all"] + RESERVE

    recomputed: dict[str, Any] = {"checkpoint_activations": "full"}
    tries = [{}, recomputed, {"optimizer": "adamw8bit", **recomputed}]
    if MOVING * shape.parameters + RESERVE <= here.host:
        tries.append({"offload": True, **recomputed})
    for keys in tries:
        optimizer, offload = keys.get("optimizer", "adamw"), keys.get("offload", False)
        size = need(optimizer=optimizer, offload=offload, recomputed=keys.get("checkpoint_activations", "none"))
        if size <= here.bytes:
            told += f"full training with {optimizer} takes about {size / 1e9:.1f} GB of {place}"
            if offload:
                told += f", and {MOVING * shape.parameters / 1e9:.0f} of {here.host / 1e9:.0f} GB of RAM (offloaded)"
            return {f"train.{key}": value for key, value in keys.items()}, told
    smaller = need(method="qlora")
    remedy = (
        f'try train.method = "qlora", about {smaller / 1e9:.0f} GB' if smaller <= here.bytes else "take a smaller base"
    )
    size = need(optimizer="adamw8bit", recomputed="full")
    return (
        {"train.optimizer": "adamw8bit", "train.checkpoint_activations": "full"},
        f"{told}warning: full training does not fit: it needs {size / 1e9:.0f} GB with 8-bit moments, {place}; "
        f"{remedy}, or more devices",
    )


def chosen_activations(shape: Shape, recipe: Train, length: int, world: World) -> Recomputed:
    """What "auto" stands for: the least recomputation with which a step fits into a GPU's free memory; "full" if none.

    Args:
        length: tokens of a row.
    """
    tries: tuple[Recomputed, ...] = ("none", "selective")
    return next((mode for mode in tries if not too_large(shape, recipe, mode, length, world)), "full")


def too_large(shape: Shape, recipe: Train, recomputed: Recomputed, length: int, world: World) -> str:
    """A warning if training on a GPU is about to take more than it has free; "" otherwise.

    Args:
        recomputed: stands for `recipe.checkpoint_activations`, which may be "auto".
        length: tokens of a row.
    """
    if world.device.type != "cuda":
        return ""
    how = Setting(
        method=recipe.method,
        optimizer=recipe.optimizer,
        lora_rank=recipe.lora_rank,
        offload=recipe.offload,
        shards=world.size // recipe.replicas,
        tokens=recipe.micro_batch * length,
        recomputed=recomputed,
        width=2 if recipe.precision == "bf16" else 4,
    )
    needed, free = peak(shape, how)["all"] + RESERVE, torch.cuda.mem_get_info(world.device)[0]
    if needed <= free:
        return ""
    return (
        f"warning: it needs about {needed / 1e9:.0f} GB, the card has {free / 1e9:.0f} GB free; try "
        'train.checkpoint_activations = "full", a smaller train.micro_batch, train.optimizer = "adamw8bit", '
        'train.offload = true, more cards or train.method = "qlora"'
    )


def load_to_measure(base: Path) -> PreTrainedModel | None:
    """The base for a few measurements: in fp32 where that takes less than half of the free RAM, in bf16 where that
    does; None where neither fits."""
    parameters, free = shape_of(base).parameters, free_ram()
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        if parameters * size < free / 2:
            return load_whole(base, dtype).eval()
    return None
