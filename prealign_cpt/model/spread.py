"""A frozen model spread over the ranks: the body is cut, and each block is whole only while it computes.

    config.json ─► a model without weights ─► blocks sharded by FSDP2 ─► each rank reads its rows of each tensor

Embedding and head stay whole on every rank, as they are in any step of training: their rows are looked up one by one.
All ranks must run the model equally often, forward and backward, for every block is gathered from all of them.
"""

from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from prealign_cpt.model.fill import fill, without_weights
from prealign_cpt.model.load import blocks, check_head
from prealign_cpt.model.world import World


def load_spread(folder: Path, dtype: torch.dtype, world: World) -> PreTrainedModel:
    """The model of a folder, from safetensors only; all ranks call it together. It computes what `load_whole` gives.

    Raises:
        DataError: the folder's tensors are not those of the model.
        RecipeError: its logits are not made as `check_head` wants them.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with without_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.eval().requires_grad_(False)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    fully_shard(model.base_model, mesh=mesh, ignored_params=tables)
    fill(model, model, folder, world.device)
    check_head(model)
    return model
