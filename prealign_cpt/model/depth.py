"""Hidden states behind all of a model's blocks, or behind some at the price of those.

Taken by hooks of our own: transformers knows which states to give by the class of the body, and to shard it changes
its class.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign_cpt.model.load import blocks


def states_behind(model: PreTrainedModel, depths: Sequence[int], **inputs: Any) -> list[Tensor]:
    """Output of the blocks numbered `depths` (the first is 1), each [B, T, D], not normed; no later block runs.

    Args:
        inputs: what the body is called with.

    Raises:
        RecipeError: the blocks are elsewhere than in `layers`.
    """
    body, whole = model.base_model, blocks(model)
    found: dict[int, Tensor] = {}

    def keep(depth: int, output: Any) -> None:
        found[depth] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as undo:
        for depth in set(depths):
            hook = whole[depth - 1].register_forward_hook(lambda _, __, output, depth=depth: keep(depth, output))
            undo.callback(hook.remove)
        undo.callback(setattr, body, "layers", body.layers)
        body.layers = nn.ModuleList(whole[: max(depths)])
        body(**inputs, use_cache=False)
    return [found[depth] for depth in depths]


def every_state(model: PreTrainedModel, **inputs: Any) -> list[Tensor]:
    """What enters the first block, what leaves each but the last, and the normed end: L + 1 tensors [B, T, D] of L
    blocks, as transformers counts hidden states.

    Args:
        inputs: what the body is called with.

    Raises:
        RecipeError: the blocks are elsewhere than in `layers`.
    """
    found: list[Tensor] = []
    with ExitStack() as undo:
        for block in blocks(model):
            hook = block.register_forward_pre_hook(lambda _, states: found.append(states[0]))
            undo.callback(hook.remove)
        last: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return [*found, last]
