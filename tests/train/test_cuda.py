"""What only a GPU can show; skipped without one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prealign_cpt.data.mixture import Mixture, PackedText, positions
from prealign_cpt.model.loss import DOCUMENTS, LanguageModelLoss, document_borders
from prealign_cpt.model.world import process_group
from prealign_cpt.recipe.schema import Train
from prealign_cpt.train.optim import make_optimizer
from prealign_cpt.train.shard import sharded
from prealign_cpt.train.step import SpikeGuard, train_step
from tests.conftest import make_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

VOCAB, HIDDEN, LENGTH = 512, 256, 256
"""Heads of 64, as flash kernels want them."""


def rows() -> torch.Tensor:
    inputs = torch.randint(1, VOCAB, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    inputs[:, [0, 100, 130]] = 0
    return inputs


def each(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        place = positions(rows(), 0).cuda()
        return LanguageModelLoss(model)(inputs.cuda(), inputs.cuda(), place, each=True).float()


def test_the_flash_kernel_gives_the_losses_of_the_mask_and_keeps_documents_apart() -> None:
    model = make_model(VOCAB, hidden=HIDDEN, spread=0.05).to("cuda", torch.bfloat16)
    masked = each(model, rows())
    model.set_attn_implementation(DOCUMENTS)
    found, other = each(model, rows()), rows()
    torch.testing.assert_close(found, masked, atol=0.05, rtol=0)
    other[:, 1:100] = 7
    last = (torch.arange(4)[:, None] * (LENGTH - 1) + torch.arange(130, LENGTH - 1)).flatten()
    assert torch.equal(each(model, other)[last], found[last])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_a_step_in_bf16_learns(tmp_path: Path, compiled: bool, mode: Any) -> None:
    make_model(VOCAB, hidden=HIDDEN, spread=0.05).save_pretrained(tmp_path / "base")
    np.save(tmp_path / "text.inputs.npy", rows().int().numpy())
    recipe = Train(steps=8, sequences=4, micro_batch=2, lr=1e-2, warmup=0.0, decay=0.0, eval_every=9, save_every=9)
    with process_group(torch.device("cuda", 0), timeout_minutes=1) as world:
        module = sharded(tmp_path / "base", world, "bf16", mode, compiled)
        assert module.model.config._attn_implementation == DOCUMENTS
        optimizer = make_optimizer(module, recipe)
        mixture = Mixture([PackedText(tmp_path)], [], 0.0, seed=3)
        losses = [
            train_step(module, optimizer, mixture, step, recipe, 0, world, SpikeGuard()).loss for step in range(8)
        ]
    assert losses[-1] < losses[0] - 0.1


def test_borders_are_the_same_on_both_devices() -> None:
    place = positions(rows(), 0)
    assert torch.equal(document_borders(place.cuda()).cpu(), document_borders(place))
