"""Output rows that expect new tokens as often as they occur."""

import copy

import pytest
import torch

from prealign_cpt.align.calibrate import _hidden_states, _log_mean_probabilities, calibrate
from prealign_cpt.align.rows import StaticRows, write_rows
from prealign_cpt.run.errors import DataError
from prealign_cpt.vocab.rows import grow_rows
from tests.align.conftest import DOUBLES, NUM_WORDS, Ring, documents
from tests.conftest import make_model

START = 0


def _text() -> list[str]:
    """Target words, the first of them much more frequent than the others."""
    return [f" {DOUBLES[0]}{document}" + f" {DOUBLES[0]}" * 40 for document in documents(DOUBLES, 1, 12, 60)]


def _model(ring: Ring, tied: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    model = make_model(len(ring.base), tied).eval()
    torch.nn.init.normal_(model.base_model.norm.weight, 1.0, 0.1)
    for layer in model.base_model.layers:  # a common part of the hidden states, as trained models have
        torch.nn.init.normal_(layer.mlp.down_proj.weight, 0.1, 0.1)
    grow_rows(model, len(ring.grown), len(ring.base))
    table = model.get_input_embeddings().weight.detach()[: len(ring.base)].float()
    rows = table[ring.old_ids] + 0.5 * table.mean(dim=0)
    write_rows(model, len(ring.base), StaticRows(rows, rows, ["x"] * NUM_WORDS))
    return model


@torch.no_grad()
def _distance(model: torch.nn.Module, ring: Ring) -> float:
    """Mean distance, in nats, of expected and counted frequencies."""
    old = len(ring.base)
    hidden, _ = _hidden_states(model, ring.base, _text(), START, 0)
    counts = torch.zeros(len(ring.grown))
    for text in _text():
        counts += torch.bincount(torch.tensor(ring.grown.encode(text)), minlength=len(counts))
    frequency = (counts[old:] + 0.5) / counts.sum()
    expected = _log_mean_probabilities(hidden, model.get_output_embeddings().weight.detach().float())[old:]
    return (expected - frequency.log()).abs().mean().item()


@pytest.mark.parametrize("tied", [True, False])
def test_frequencies_come_nearer_and_nothing_else_moves(ring: Ring, tied: bool):
    model = _model(ring, tied)
    before, old = copy.deepcopy(model.state_dict()), len(ring.base)
    distances = [_distance(model, ring)]
    for strength in (0.5, 1.0):
        model.load_state_dict(before)
        found = calibrate(model, ring.base, ring.grown, _text(), strength, START, 0)
        distances.append(_distance(model, ring))
    assert distances[1] < 0.8 * distances[0] and distances[2] < 0.8 * distances[1]
    mass = found["mass"]
    assert abs(mass["after"] - mass["text"]) < abs(mass["before"] - mass["text"])
    assert 0 < found["target_bytes"] <= sum(len(text.encode()) for text in _text())
    for name, value in model.state_dict().items():
        moved = name == "lm_head.weight" or (tied and name == "model.embed_tokens.weight")
        assert torch.equal(value[:old], before[name][:old]), name
        assert torch.equal(value, before[name]) != moved, name


def test_the_same_direction_for_all_and_more_for_the_frequent(ring: Ring):
    model, old = _model(ring, False), len(ring.base)
    weight = model.get_output_embeddings().weight
    rows = weight.detach()[old:].clone()
    calibrate(model, ring.base, ring.grown, _text(), 1.0, START, 0)
    shift = weight.detach()[old:] - rows
    values = torch.linalg.svdvals(shift)
    assert values[1] < 1e-3 * values[0]  # one direction
    hidden, _ = _hidden_states(model, ring.base, _text(), START, 0)
    steps = shift @ hidden.mean(dim=0)
    assert steps[0] == steps.max() and steps[0] - steps.median() > 1  # the first word has most of the text


def test_strength_0_and_no_new_tokens_change_nothing(ring: Ring):
    model = _model(ring, True)
    before = copy.deepcopy(model.state_dict())
    nothing = {"target_bytes": 0, "tokens_forward": 0}
    assert calibrate(model, ring.base, ring.grown, _text(), 0.0, START, 0) == nothing
    assert calibrate(model, ring.base, ring.base, _text(), 1.0, START, 0) == nothing
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_text_is_said(ring: Ring):
    with pytest.raises(DataError, match=r"text\.target: holds no text.*align\.calibrate to 0"):
        calibrate(_model(ring, True), ring.base, ring.grown, [], 0.5, START, 0)
