"""The formula for FLOPs, against what torch counts."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prealign_cpt.lab.compare.budget import matmul_parameters
from prealign_cpt.model.loss import LanguageModelLoss
from tests.conftest import make_model

ROWS, LENGTH, VOCAB, HIDDEN, LAYERS = 4, 16, 600, 64, 2


@pytest.mark.parametrize("tied", [True, False])
def test_six_and_two_operations_a_weight_and_token(tmp_path: Path, tied: bool):
    # In bf16, since torch does not count the product by which fp32 sums the head's gradient in place (addmm_); with
    # plain attention, since torch does not count that of the CPU either.
    model = make_model(VOCAB, tied, LAYERS, HIDDEN).to(torch.bfloat16).train()
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path)
    weights = matmul_parameters(tmp_path)
    module = LanguageModelLoss(model)
    inputs = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    place = torch.arange(LENGTH).expand(ROWS, LENGTH)
    with FlopCounterMode(display=False) as trained:
        module(inputs, inputs, place).backward()
    with FlopCounterMode(display=False) as read, torch.no_grad():
        module(inputs, inputs, place)
    tokens = ROWS * LENGTH
    # Attention's own products, QK' and AV, are what the formula leaves out; here they are 4 % of it.
    attention = 4 * LENGTH * HIDDEN * LAYERS * tokens
    assert trained.get_total_flops() - 3 * attention == pytest.approx(6 * weights * tokens, rel=0.01)
    assert read.get_total_flops() - attention == pytest.approx(2 * weights * tokens, rel=0.01)
    assert read.get_total_flops() == pytest.approx(2 * weights * tokens, rel=0.05)
    # The head is counted once, the table of the input rows only if it is the head.
    others = sum(p.numel() for p in model.base_model.layers.parameters() if p.ndim == 2)
    assert weights == others + VOCAB * HIDDEN
