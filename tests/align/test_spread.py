"""A body spread over the ranks: the states and gradients of the whole model, and no rank that ever holds it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from prealign_cpt.model.depth import every_state
from prealign_cpt.model.load import load_whole
from prealign_cpt.model.spread import load_spread
from prealign_cpt.model.world import local_shard, process_group
from tests.conftest import make_model, run_ranks

LAYERS = 24


def _pass(model: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States of every layer, and the gradient of their sum with regard to the embeddings."""
    embedded = model.get_input_embeddings()(torch.arange(1, 9)[None]).detach().requires_grad_()
    states = every_state(model, inputs_embeds=embedded)
    sum(state.float().sum() for state in states).backward()
    assert embedded.grad is not None
    return [state.detach() for state in states], embedded.grad


def _held(rank: int, size: int, folder: Path) -> tuple[int, Any]:
    """Most bytes of tensors in the pass, the weights that stand among them, and what it gave."""
    with process_group(torch.device("cpu"), timeout_minutes=2) as world:
        model = load_spread(folder, torch.float32, world)
        stand = sum(local_shard(p).nbytes for p in model.parameters())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
            found = _pass(model)
        events = measured.profiler.kineto_results.events()
        sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    states, gradient = found
    return stand + int(np.cumsum([n for _, n in sorted(sizes)]).max()), (
        [s.tolist() for s in states],
        gradient.tolist(),
    )


@pytest.mark.parametrize("size", [2, 4])
def test_no_rank_holds_the_whole_model(tmp_path: Path, size: int) -> None:
    make_model(300, tied=False, layers=LAYERS, hidden=128).save_pretrained(tmp_path)
    whole = load_whole(tmp_path)
    states, gradient = _pass(whole)
    tables = sum(4 * m.weight.numel() for m in (whole.get_input_embeddings(), whole.get_output_embeddings()))
    body = sum(4 * p.numel() for p in whole.parameters()) - tables
    ranks = run_ranks(size, _held, tmp_path)
    for _, (found, back) in ranks:
        for one, other in zip(states, found, strict=True):
            torch.testing.assert_close(torch.tensor(other), one)
        torch.testing.assert_close(torch.tensor(back), gradient)
    # Its part, the tables, the block that computes, the next one that is gathered, and what they are gathered in: 5 to
    # 7 blocks in most trials, up to 10 if gloo holds some longer; without resharding it is the whole body.
    held = min(held for held, _ in ranks)
    assert body / size + tables + body / LAYERS < held < body / size + tables + 11 * body / LAYERS
