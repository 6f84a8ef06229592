"""Shards: spread a Hugging Face model over the ranks with FSDP2.

Rank 0 alone reads the weights; every parameter is scattered as it is read, so no other rank ever holds the whole model.
Parameters and optimizer state are fp32; with bf16 the forward and backward passes use bf16 copies and gradients are
summed in fp32. With replicas the ranks form a table: a row holds one whole model, sharded; gradients are summed over
rows and columns.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM

from prealign_cpt.model.accept import blocks
from prealign_cpt.model.attention import choose_attention
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.world import World
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.train.recompute import compile_block, recompute


def sharded(
    folder: Path,
    world: World,
    precision: Literal["bf16", "fp32"],
    checkpoint_activations: Literal["none", "selective", "full"] = "none",
    compiled: bool = False,
    replicas: int = 1,
) -> LanguageModelLoss:
    """The model of a Hugging Face folder, sharded over the ranks, ready to train.

    Args:
        folder: config and safetensors; read on rank 0.
        precision: of the forward and backward passes.
        checkpoint_activations: what the backward pass computes again (`recompute`).
        compiled: compile each block at its first call.
        replicas: copies of the sharded model; 1 shards it over all ranks.

    Raises:
        RecipeError: the architecture keeps its blocks somewhere else than in `layers`, or the ranks cannot be divided
            among the replicas.
    """
    mesh = _mesh(world, replicas)
    config = AutoConfig.from_pretrained(folder)
    source = load_whole(folder) if world.rank == 0 else None
    form = choose_attention(world.device, precision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=form)
    module = LanguageModelLoss(model)
    for block in blocks(model):
        recompute(block, checkpoint_activations)
        if compiled:
            compile_block(block)
        shard(block, precision, mesh)
    shard(module, precision, mesh)
    _fill(module, LanguageModelLoss(source) if source is not None else None, world)
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


def shard(module: nn.Module, precision: Literal["bf16", "fp32"], mesh: DeviceMesh | None = None) -> None:
    """Apply FSDP2 to a module whose parts are sharded already; gradients become plain sums over ranks.

    Args:
        mesh: all ranks, in a line or a table (replicate, shard); None takes torch's default, which is CUDA wherever
            there is a GPU.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # To gather and round weights a second time, for the backward pass, costs a CPU more than to keep them.
    on_cpu = mesh is not None and mesh.device_type == "cpu"
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False if on_cpu else None)
    assert isinstance(module, FSDPModule)
    # The loss is divided by the global number of targets; a mean over ranks would weigh ranks, not tokens.
    # Gloo cannot scale while it reduces, so the sum is forced and the factor is one.
    module.set_force_sum_reduction_for_comms(True)
    if mesh is None or mesh.size() > 1:  # a single rank would make a pass over memory to divide by one
        module.set_gradient_divide_factor(1.0)


def _fill(module: nn.Module, source: nn.Module | None, world: World) -> None:
    """Give a module made on the meta device its weights and buffers, from rank 0."""
    tied = {}
    seen: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            tied[name] = seen[id(parameter)]
        seen.setdefault(id(parameter), name)
    module.to_empty(device=world.device)
    for name, first in tied.items():  # to_empty gives each name a tensor of its own
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._parameters[leaf] = module.get_parameter(first)
    real = dict(source.named_parameters(remove_duplicate=False)) if source is not None else {}
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, DTensor)
        whole = real[name].detach() if real else torch.empty(parameter.shape, dtype=parameter.dtype)
        part = distribute_tensor(whole.to(world.device), parameter.device_mesh, parameter.placements)
        with torch.no_grad():
            parameter.to_local().copy_(part.to_local())
    real_buffers = dict(source.named_buffers()) if source is not None else {}
    for name, buffer in module.named_buffers():  # rotary frequencies are in no checkpoint
        if real_buffers:
            buffer.copy_(real_buffers[name])
        _broadcast(buffer)
    for name, first in tied.items():
        assert module.get_parameter(name) is module.get_parameter(first), f"{name} lost its tie"


def _broadcast(tensor: Tensor) -> None:
    dist.broadcast(tensor, src=0)
