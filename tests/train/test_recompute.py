"""What blocks keep and compute again: gradients equal bit by bit, and the operators that run say what was kept."""

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prealign_cpt.data.mixture import positions
from prealign_cpt.model.load import blocks
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.train.shard import compile_block, recompute
from tests.conftest import make_model

VOCAB = 67
LAYERS = 10
"""More than the eight graphs that dynamo makes of one function before it gives up."""
ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu.default"


class Operators(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))


def module_of(mode: Any) -> LanguageModelLoss:
    module = LanguageModelLoss(make_model(VOCAB, layers=LAYERS)).train()
    for block in blocks(module.model):
        recompute(block, mode)
    return module


def batch() -> tuple[Tensor, Tensor, Tensor]:
    inputs = torch.randint(1, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))
    inputs[:, [0, 9]] = 0
    return inputs, inputs, positions(inputs, 0)


def gradients(module: LanguageModelLoss) -> dict[str, Tensor]:
    module(*batch()).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputing_changes_no_gradient(mode: str) -> None:
    expected, found = gradients(module_of("none")), gradients(module_of(mode))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_selective_computes_no_product_and_no_attention_again() -> None:
    forward, backward = {}, {}
    for mode in ("none", "selective", "full"):
        module = module_of(mode)
        with Operators() as operators:
            nll = module(*batch())
            forward[mode] = operators.seen.copy()
            nll.backward()
            backward[mode] = operators.seen - forward[mode]
    assert forward["none"]["aten.mm.default"] >= 7 * LAYERS and forward["none"][ATTENTION] == LAYERS
    for name in ("aten.mm.default", ATTENTION):
        assert backward["selective"][name] == backward["none"][name]
        assert backward["full"][name] > backward["none"][name]
    for mode in ("selective", "full"):
        assert backward[mode]["aten.rsqrt.default"] == 2 * LAYERS and not backward["none"]["aten.rsqrt.default"]


def kept_bytes(mode: str) -> int:
    """What a forward pass leaves alive for the backward pass, over blocks that are wide enough to count."""
    model = make_model(VOCAB, layers=4, hidden=64)
    module = LanguageModelLoss(model).train()
    for block in blocks(model):
        recompute(block, mode)  # type: ignore[arg-type]
    inputs = torch.randint(1, VOCAB, (4, 128), generator=torch.Generator().manual_seed(1))
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(inputs, inputs, positions(inputs, 0))
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)


def test_full_keeps_less_than_none() -> None:
    assert kept_bytes("full") < 0.3 * kept_bytes("none")


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_all_blocks_share_one_graph(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # inductor takes half a minute
    expected, module = gradients(module_of("none")), module_of(mode)
    for block in blocks(module.model):
        compile_block(block)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = gradients(module)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()), msg=name)
