"""What moves in training: everything, or new rows and low-rank adapters beside a frozen body.

    full     every parameter
    rows     new rows of embedding and head (model/tables.py)
    lora     those, and A and B of every linear of the blocks: y = (W + alpha/rank B A) x (arXiv 2106.09685)
    qlora    the same with W in 4 bits, bitsandbytes' nf4 (arXiv 2305.14314)

The sum in brackets is formed and rounded to the type of computation, where others add W x and B A x: the loss is then
that of the merged model which is exported, whose weights have no more bits. (When the two were added behind their
products in bf16, the gate rightly refused the merged SmolLM2.) The price is one pass over W, forward and backward.

Own classes instead of peft's: peft wraps the model, so that names, blocks and tables lie elsewhere than FSDP, loss and
checkpoint look for them; its `trainable_token_indices` work on a table that is not sharded; and its 4-bit layers are
parameters that FSDP2 would cut. What is left to do is this file.

What is frozen needs no fp32 master: it is kept in the type it is computed in. Weights in 4 bits stand whole on every
rank, as plain attributes: FSDP, state dicts and `to_empty` pass them by. Their scales (one for 64 numbers) stay in
fp32: to quantise them too would save 0.37 bits a parameter, by a mean whose last bit depends on the device.
Shapes: R rank, I and O in and out.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from prealign_cpt.model.load import blocks
from prealign_cpt.model.tables import split_tables
from prealign_cpt.recipe.schema import Train
from prealign_cpt.run.errors import RecipeError

COMPUTED = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""What `train.precision` computes in."""


class AdaptedLinear(nn.Module):
    """A frozen linear and its adapter; B is zero at the start, so the function is that of the linear alone.

    Attributes:
        in_4bit: whether `weight` is to be quantised, or is.
        weight: [O, I], frozen; None once it is quantised.
        packed, state: the quantised weight, and what bitsandbytes needs to read it.
        a, b: fp32 [R, I] and [O, R].
        start: where `a` begins, while it has no memory.
    """

    def __init__(self, linear: nn.Linear, recipe: Train, generator: torch.Generator) -> None:
        super().__init__()
        rank = recipe.lora_rank
        self.scale = recipe.lora_alpha / rank
        self.in_4bit = recipe.method == "qlora"
        self.weight: nn.Parameter | None = linear.weight
        self.bias = linear.bias
        device = linear.weight.device
        start = torch.empty(rank, linear.in_features, device="cpu")
        start.uniform_(-1, 1, generator=generator).mul_(linear.in_features**-0.5)  # as a linear of its own begins
        self.start: Tensor | None = start if device.type == "meta" else None
        self.a = nn.Parameter(start.to(device))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        self.packed: Tensor | None = None
        self.state: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] to [..., O]."""
        frozen = self.weight if self.packed is None else self.packed
        return _Adapted.apply(x, self.a, self.b, frozen, self.state, self.scale, self.bias)

    def quantize(self, weight: Tensor) -> None:
        """Keep `weight` [O, I] in 4 bits, where it lies, instead of what is kept now."""
        # As one row: on a CPU bitsandbytes 0.50 reads matrices wrongly whose rows are not whole blocks of 64, and a
        # vector with another number of dimensions than it tells the compiler.
        flat = weight.detach().reshape(1, -1)
        self.packed, self.state = _bitsandbytes().functional.quantize_4bit(flat, quant_type="nf4")
        self.weight = None

    def merged(self, computed: torch.dtype) -> nn.Linear:
        """The one linear that training computed with."""
        frozen = self.weight if self.packed is None else self.packed
        assert frozen is not None
        a, b = (factor.detach().to(frozen.device, computed) for factor in (self.a, self.b))
        linear = nn.Linear(*self.a.shape[::-1], bias=False, device="meta")
        linear.weight = nn.Parameter(_sum(a, b, frozen.detach(), self.state, self.scale))
        linear.bias = self.bias
        return linear


class _Adapted(torch.autograd.Function):
    """(W + scale B A) x, W frozen; the sum is formed anew in the backward pass, where autograd would keep it.

    The gradient passes the rounding of the sum as if there were none, as it does when fp32 weights are rounded.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, frozen: Tensor, state: Any, scale: float, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, a, b, frozen)
        ctx.state, ctx.scale = state, scale
        return F.linear(x, _sum(a, b, frozen, state, scale), bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, a, b, frozen = ctx.saved_tensors
        for_x = gradients[0] @ _sum(a, b, frozen, ctx.state, ctx.scale) if ctx.needs_input_grad[0] else None
        x_NI, slope_NO = x.flatten(0, -2), ctx.scale * gradients[0].flatten(0, -2)
        for_a = (slope_NO @ b).T @ x_NI
        for_b = slope_NO.T @ (x_NI @ a.T)
        return for_x, for_a, for_b, None, None, None, None


def _sum(a_RI: Tensor, b_OR: Tensor, frozen: Tensor, state: Any, scale: float) -> Tensor:
    """W + scale B A [O, I], rounded once; `frozen` is W, or its codes where there is a `state`."""
    weight = frozen
    if state is not None:
        # The operator itself: what bitsandbytes does around it, and its import, would cut a compiled block here.
        weight = torch.ops.bitsandbytes.dequantize_4bit(
            frozen, state.absmax, state.blocksize, state.quant_type, state.shape, state.dtype
        ).view(len(b_OR), -1)
    # Of one matrix, because "selective" recomputation keeps what mm and addmm give, and would keep all of these.
    return torch.baddbmm(weight[None], b_OR[None], a_RI[None], alpha=scale)[0]


def prepare(model: PreTrainedModel, recipe: Train, first_new: int | None, seed: int) -> None:
    """Freeze what `train.method` does not move, cut the tables and put adapters in, in place. "full" changes nothing.

    On the meta device only shapes come about, and where the adapters begin; `quantize` follows for "qlora".

    Args:
        first_new: id of the first new token; None where there are none.
        seed: of the adapters' start.

    Raises:
        RecipeError: only new rows are to move, and there are none; or bitsandbytes is not there.
    """
    if recipe.method == "full":
        return
    if recipe.method == "rows" and first_new is None:
        raise RecipeError(
            'train.method: "rows" moves new tokens\' rows alone, and there is no new token; set vocab.size above 0, or '
            'take "lora"'
        )
    for parameter in model.parameters():
        parameter.requires_grad = False
    if first_new is not None:
        split_tables(model, first_new)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(COMPUTED[recipe.precision])
    if recipe.method == "rows":
        return
    if recipe.method == "qlora":
        _bitsandbytes()
    generator = torch.Generator().manual_seed(seed)
    for block in blocks(model):
        for name, linear in list(block.named_modules()):
            if isinstance(linear, nn.Linear):
                block.set_submodule(name, AdaptedLinear(linear, recipe, generator))


@torch.no_grad()
def quantize(model: PreTrainedModel, read: Callable[[str], Tensor], device: torch.device) -> None:
    """Give a model prepared for "qlora" its linears in 4 bits, one by one.

    Args:
        read: a tensor of the base by its name; every rank reads it for itself.
        device: of the quantised weights.
    """
    for name, linear in adapted(model).items():
        if linear.in_4bit and linear.weight is not None:
            linear.quantize(read(f"{name}.weight").to(device, linear.weight.dtype))


def starts(model: PreTrainedModel) -> dict[str, Tensor]:
    """Where the adapters of a model without weights begin, by the names of their parameters."""
    found: dict[str, Tensor] = {}
    for name, linear in adapted(model).items():
        if linear.start is not None:
            found |= {f"{name}.a": linear.start, f"{name}.b": torch.zeros(linear.b.shape)}
            linear.start = None
    return found


def adapted(model: PreTrainedModel) -> dict[str, AdaptedLinear]:
    """The adapted linears by name, in the order of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def _bitsandbytes() -> Any:
    """Imported late: it takes seconds, and most runs need none of it."""
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise RecipeError(
            f'train.method: "qlora" needs bitsandbytes, which cannot be imported ({error}); run '
            'pip install "prealign-cpt[bnb]", or take "lora"'
        ) from error
