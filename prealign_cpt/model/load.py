"""A Hugging Face folder as a model in this process, and the device it shall work on."""

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from prealign_cpt.model.accept import check_head
from prealign_cpt.run.errors import RecipeError


def choose_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is a GPU; on a node each rank takes the GPU of its local rank.

    Raises:
        RecipeError: CUDA is asked for and not there, or there are more ranks than GPUs.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError("device: 'cuda' is asked for but torch sees no GPU; use --device cpu, or mend the driver")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise RecipeError(
            f"device: rank {local} of this node has no GPU of its own ({torch.cuda.device_count()} there); "
            f"start with --nproc-per-node {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def load_whole(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a folder on the CPU, from safetensors only.

    To cast it later is not the same: that would round the rotary frequencies too, which are fp32 in any model.

    Raises:
        RecipeError: its logits are not made as `check_head` wants them.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    )
    check_head(model)
    return model
