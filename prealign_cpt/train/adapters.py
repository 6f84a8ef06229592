"""What moves in training: everything, or new rows and low-rank adapters beside a frozen body.

    full     every parameter
    rows     new rows of embedding and head (model/split.py)
    lora     those, and B A beside the weight of every linear of the blocks: y = W x + alpha/rank B A x (2106.09685)
    qlora    the same beside weights in 4 bits, bitsandbytes' nf4 (2305.14314)

Own classes instead of peft's: peft wraps the model, so that names, blocks and tables lie elsewhere than FSDP, loss and
checkpoint look for them; its `trainable_token_indices` work on a table that is not sharded; and its 4-bit layers are
parameters that FSDP2 would cut. What is left to do is this file.

What is frozen needs no fp32 master: it is kept in the type it is computed in. Weights in 4 bits stand whole on every
rank, as plain attributes: FSDP, state dicts and `to_empty` pass them by. Their scales (one for 64 numbers) stay in
fp32: to quantise them too would save 0.37 bits a parameter, by a mean whose last bit depends on the device.
Shapes: R rank, I and O in and out.
"""

from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from prealign_cpt.model.load import blocks
from prealign_cpt.model.split import join_tables, split_tables
from prealign_cpt.model.world import World
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
    """

    def __init__(self, linear: nn.Linear, recipe: Train, generator: torch.Generator) -> None:
        super().__init__()
        rank = recipe.lora_rank
        self.scale = recipe.lora_alpha / rank
        self.in_4bit = recipe.method == "qlora"
        self.weight: nn.Parameter | None = linear.weight
        self.bias = linear.bias
        device = linear.weight.device
        start = torch.empty(rank, linear.in_features, device=device)
        if device.type != "meta":
            start.uniform_(-1, 1, generator=generator).mul_(linear.in_features**-0.5)  # as a linear of its own begins
        self.a = nn.Parameter(start)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        self.packed: Tensor | None = None
        self.state: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] to [..., O]."""
        if self.packed is None:
            y = F.linear(x, self.weight, self.bias)
        else:
            y = _Linear4bit.apply(x, self.packed, self.state, self.bias)
        return y + self.scale * F.linear(F.linear(x, self.a), self.b)

    def quantize(self, weight: Tensor) -> None:
        """Keep `weight` [O, I] in 4 bits, where it lies, instead of what is kept now."""
        # As one row: on a CPU bitsandbytes 0.50 reads matrices wrongly whose rows are not whole blocks of 64.
        flat = weight.detach().flatten()
        self.packed, self.state = _bitsandbytes().functional.quantize_4bit(flat, quant_type="nf4")
        self.weight = None

    def merged(self, computed: torch.dtype) -> nn.Linear:
        """One linear of the same function, fp32; the products are of A and B as training rounded them."""
        if self.packed is None:
            assert self.weight is not None
            weight = self.weight
        else:
            weight = _dequantized(self.packed, self.state, self.a.shape[1])
        a, b = (factor.detach().to(weight.device, computed).float() for factor in (self.a, self.b))
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight.detach().float() + self.scale * (b @ a))
        linear.bias = None if self.bias is None else nn.Parameter(self.bias.detach().float())
        return linear


class _Linear4bit(torch.autograd.Function):
    """A linear whose weight is read anew in the backward pass, where autograd would keep it in 16 bits.

    bitsandbytes' own multiplies otherwise than by the weight that it gives back, and fetches kernels on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, state: Any, bias: Tensor | None) -> Tensor:
        ctx.packed, ctx.state = packed, state  # of no graph, and never changed
        ctx.columns = x.shape[-1]
        return F.linear(x, _dequantized(packed, state, ctx.columns), bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] @ _dequantized(ctx.packed, ctx.state, ctx.columns), None, None, None


def _dequantized(packed: Tensor, state: Any, columns: int) -> Tensor:
    """The weight [O, I = `columns`], in the type that it had before."""
    flat = _bitsandbytes().functional.dequantize_4bit(packed, state)
    assert isinstance(flat, Tensor)
    return flat.view(-1, columns)


def prepare(model: PreTrainedModel, recipe: Train, first_new: int | None, seed: int) -> None:
    """Freeze what `train.method` does not move, cut the tables and put adapters in, in place. "full" changes nothing.

    On the meta device only shapes come about; `quantize` follows for "qlora".

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
def quantize(model: PreTrainedModel, source: PreTrainedModel | None, world: World | None = None) -> None:
    """Give a model prepared for "qlora" its linears in 4 bits, one by one, on every rank's device.

    Args:
        source: the same with weights, on rank 0; it loses each one when it has been read. It may be `model` itself.
        world: None in a process without ranks; weights stay on their device then.
    """
    there = adapted(source) if source is not None else {}
    for name, linear in adapted(model).items():
        if not linear.in_4bit:
            continue
        assert linear.weight is not None
        whole = there[name].weight if there else torch.empty_like(linear.weight, device="cpu")
        assert whole is not None
        if world is not None:
            whole = whole.detach().to(world.device)
            dist.broadcast(whole, src=0)
        linear.quantize(whole)
        if there:
            there[name].weight = None


@torch.no_grad()
def merge(model: PreTrainedModel, computed: torch.dtype) -> None:
    """Undo `prepare`, in place: one linear for each and its adapter, whole tables, all fp32."""
    for name, linear in adapted(model).items():
        model.set_submodule(name, linear.merged(computed).to(model.device))
    join_tables(model)
    model.float()


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
