"""What of a block is kept for the backward pass, and whether the block is compiled.

    block.forward --recompute--> keeps less --compile_block--> one graph for all blocks

Both replace `forward` alone: FSDP2's hooks stay around it and outside of the graph.
"""

from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from prealign_cpt.model import attention  # noqa: F401  (brings torch_attn's operators)

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


def recompute(block: nn.Module, mode: Literal["none", "selective", "full"]) -> None:
    """Make a block forget activations and compute them again in the backward pass; gradients stay the same."""
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
