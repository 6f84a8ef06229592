"""Shards: spread a Hugging Face model over the ranks with FSDP2.

    config.json ─► a model without weights ─► blocks sharded, one by one ─► each rank reads its rows of each tensor

No process ever holds the whole model. All ranks read the same folder; nothing is sent.
Parameters and optimizer state are fp32; with bf16 the forward and backward passes use bf16 copies and gradients are
summed in fp32. With replicas the ranks form a table: a row holds one whole model, sharded; gradients are summed over
rows and columns.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from prealign_cpt.model.fill import fill, without_weights
from prealign_cpt.model.load import blocks
from prealign_cpt.model.loss import LanguageModelLoss, choose_attention
from prealign_cpt.model.tensors import Tensors
from prealign_cpt.model.world import World
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train import adapters

_aten = torch.ops.aten
KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
}
"""Operators whose results "selective" keeps: nearly all of a block's arithmetic, and about a third of its memory."""


def sharded(
    folder: Path,
    world: World,
    precision: Literal["bf16", "fp32"],
    checkpoint_activations: Literal["none", "selective", "full"] = "none",
    compiled: bool = False,
    replicas: int = 1,
    prepare: Callable[[PreTrainedModel], None] = lambda _: None,
    offload: bool = False,
) -> LanguageModelLoss:
    """The model of a Hugging Face folder, sharded over the ranks, ready to train.

    Args:
        folder: config and safetensors, as `save_pretrained` writes them. What its head does to the logits is not looked
            at: the stages that made it have loaded it whole (`load_whole`).
        precision: of the forward and backward passes.
        checkpoint_activations: what the backward pass computes again (`recompute`).
        compiled: compile each block at its first call.
        replicas: copies of the sharded model; 1 shards it over all ranks.
        prepare: what is done to the model before it is sharded (adapters.py).
        offload: keep this rank's shards, and what the optimizer makes of them, in host memory.

    Raises:
        DataError: the folder's tensors are not those of the model.
        RecipeError: the architecture keeps its blocks somewhere else than in `layers`, or the ranks cannot be divided
            among the replicas.
    """
    mesh = _mesh(world, replicas)
    config = AutoConfig.from_pretrained(folder)
    form = choose_attention(world.device, precision)
    with without_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=form)
    prepare(model)
    with Tensors(folder) as tensors:
        adapters.quantize(model, tensors.read, world.device)
    module = LanguageModelLoss(model)
    for block in blocks(model):
        recompute(block, checkpoint_activations)
        if compiled:
            compile_block(block)
        shard(block, precision, mesh, offload)
    shard(module, precision, mesh, offload)
    in_4bit = {f"{name}.weight" for name, linear in adapters.adapted(model).items() if linear.in_4bit}
    fill(module, model, folder, world.device, adapters.starts(model), in_4bit, offload)
    module.train()
    return module


def _mesh(world: World, replicas: int) -> DeviceMesh:
    """All ranks in a line, or a table of `replicas` rows; ranks of a node stand side by side in a row."""
    if world.size % replicas:
        raise RecipeError(
            f"train.replicas: {replicas} does not divide the {world.size} ranks; set it to 1, or to the number of nodes"
        )
    if replicas == 1:
        return init_device_mesh(world.device.type, (world.size,))
    shape = (replicas, world.size // replicas)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def shard(
    module: nn.Module, precision: Literal["bf16", "fp32"], mesh: DeviceMesh | None = None, offload: bool = False
) -> None:
    """Apply FSDP2 to a module whose parts are sharded already; gradients become plain sums over ranks.

    Args:
        mesh: all ranks, in a line or a table (replicate, shard); None takes torch's default, which is CUDA wherever
            there is a GPU.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # To gather and round weights a second time, for the backward pass, costs a CPU more than to keep them.
    on_cpu = mesh is not None and mesh.device_type == "cpu"
    kept = CPUOffloadPolicy(pin_memory=not on_cpu) if offload else OffloadPolicy()
    fully_shard(
        module, mesh=mesh, mp_policy=policy, reshard_after_forward=False if on_cpu else None, offload_policy=kept
    )
    assert isinstance(module, FSDPModule)
    # The loss is divided by the global number of targets; a mean over ranks would weigh ranks, not tokens.
    # Gloo cannot scale while it reduces, so the sum is forced and the factor is one.
    module.set_force_sum_reduction_for_comms(True)
    if mesh is None or mesh.size() > 1:  # a single rank would make a pass over memory to divide by one
        module.set_gradient_divide_factor(1.0)


def recompute(block: nn.Module, mode: Literal["none", "selective", "full"]) -> None:
    """Make a block forget activations and compute them again in the backward pass; gradients stay the same.

    Like `compile_block` it replaces `forward` alone: FSDP2's hooks stay around it and outside of the graph.
    """
    if mode != "none":
        # A method of the class, not a closure over the block: compiled blocks then share one graph.
        block.forward = MethodType(_full if mode == "full" else _selective, block)


def compile_block(block: nn.Module) -> None:
    """Compile a block at its first call. On CPU this needs a C++ compiler."""
    block.forward = torch.compile(block.forward)


def _full(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(type(self).forward, self, *args, use_reentrant=False, **kwargs)


def _selective(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(type(self).forward, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _policy(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
