"""Output rows that target text expects as often as it has them, and English text hardly."""

import copy
import math

import pytest
import torch
from torch import Tensor

from prealign_cpt.align.calibrate import ENGLISH, calibrate, expected, shifted
from prealign_cpt.align.mixture import old_pieces
from prealign_cpt.align.rows import StaticRows, write_rows
from prealign_cpt.align.states import States, read_states
from prealign_cpt.model.load import grow_rows
from prealign_cpt.model.tokens import num_ids, token_texts
from prealign_cpt.run.errors import DataError
from tests.align.conftest import DOUBLES, NUM_WORDS, WORDS, Ring, documents
from tests.conftest import make_model

START = 0
FREQUENCY = torch.tensor([0.1, 0.01, 0.001])


def _states(mean: Tensor, seed: int, scale: float = 0.3) -> States:
    """States around a mean, and an old vocabulary that has logits of about 0 at all of them."""
    generator = torch.Generator().manual_seed(seed)
    hidden = mean + scale * torch.randn(2000, len(mean), generator=generator)
    return States(hidden, torch.full((2000,), math.log(50.0)))


def _two_languages() -> tuple[Tensor, States, States]:
    """Rows, and states of two languages with a large common part and a small one of their own."""
    common, own = torch.tensor([4.0, 0, 0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0, 0, 0])
    rows = 0.2 * torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    return rows, _states(common + own, 0), _states(common - own, 1)


def test_frequencies_are_reached_and_english_stays():
    rows, target, english = _two_languages()
    assert (target.log_mean(rows) - FREQUENCY.log()).abs().max() > 1 and english.log_mean(rows).exp().min() > 0.005
    after = shifted(rows, FREQUENCY.log(), target, english)
    torch.testing.assert_close(target.log_mean(after), FREQUENCY.log(), atol=0.1, rtol=0)
    assert (english.log_mean(after).exp() < 3 * ENGLISH).all()
    english_low = States(english.hidden_ND, english.old_N + 30)
    low = english_low.log_mean(rows)
    assert (english_low.log_mean(shifted(rows, FREQUENCY.log(), target, english_low)) < low + 1).all(), (
        "as low as it was"
    )


def test_the_mean_probability_is_that_of_the_softmax():
    rows, target, _ = _two_languages()
    old = torch.zeros(2000, 50)
    expected = torch.cat([old, target.hidden_ND @ rows.T], dim=1).softmax(dim=1).mean(dim=0)[50:]
    torch.testing.assert_close(target.log_mean(rows).exp(), expected)
    assert target.mass(rows) == pytest.approx(expected.sum().item())


def test_two_directions_for_all_rows():
    rows, target, english = _two_languages()
    values = torch.linalg.svdvals(shifted(rows, FREQUENCY.log(), target, english) - rows)
    assert values[1] > 0.1 and values[2] < 1e-3


def test_where_nothing_tells_the_languages_apart_frequencies_are_reached():
    rows, target, _ = _two_languages()
    same = _states(torch.tensor([4.0, 1, 0, 0, 0, 0]), 7)
    after = shifted(rows, FREQUENCY.log(), target, same)
    torch.testing.assert_close(target.log_mean(after), FREQUENCY.log(), atol=0.1, rtol=0)
    assert (after - rows).norm(dim=1).max() < 2, "and by no wide swings"


def _text() -> list[str]:
    """Target words, the first of them much more frequent than the others."""
    return [f" {DOUBLES[0]}{document}" + f" {DOUBLES[0]}" * 40 for document in documents(DOUBLES, 1, 12, 60)]


ENGLISH_TEXT = documents(WORDS, 2, 40, 60)


def _pieces(ring: Ring) -> list[list[int]]:
    return old_pieces(token_texts(ring.grown)[num_ids(ring.base) :], ring.base, ring.grown)


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


@pytest.mark.parametrize("tied", [True, False])
def test_nothing_but_output_rows_moves(ring: Ring, tied: bool):
    model = _model(ring, tied)
    before, old = copy.deepcopy(model.state_dict()), len(ring.base)
    found = calibrate(model, ring.base, ring.grown, _pieces(ring), _text(), ENGLISH_TEXT, 1.0, START, 0)
    english = found["english_mass"]
    assert english["after"] < 0.5 * english["before"]
    assert 0 < found["target_bytes"] <= sum(len(text.encode()) for text in _text())
    assert found["tokens_forward"] > 3000
    for name, value in model.state_dict().items():
        moved = name == "lm_head.weight" or (tied and name == "model.embed_tokens.weight")
        assert torch.equal(value[:old], before[name][:old]), name
        assert torch.equal(value, before[name]) != moved, name


def test_strength_is_a_share_of_the_shift_and_calls_agree(ring: Ring):
    shifts = []
    for strength in (0.5, 1.0, 1.0):
        model, old = _model(ring, False), len(ring.base)
        weight = model.get_output_embeddings().weight
        before = weight.detach()[old:].clone()
        calibrate(model, ring.base, ring.grown, _pieces(ring), _text(), ENGLISH_TEXT, strength, START, 0)
        shifts.append(weight.detach()[old:] - before)
    torch.testing.assert_close(2 * shifts[0], shifts[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(shifts[1], shifts[2])


def test_a_new_token_is_expected_as_often_as_it_stands_there_and_its_first_piece_leads_to_it():
    old = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    hidden = torch.randn(200, 6, generator=torch.Generator().manual_seed(4))
    target = States(hidden, (hidden @ old.T).logsumexp(dim=1))
    counts = torch.tensor([40, 8, 3, 1, 0, 10, 0, 70, 3])  # of 5 old tokens and 4 new ones, in the new tokenization
    found = expected(target, old, [[1, 2], [1, 0], [3, 3], []], counts).exp()
    first = (hidden @ old.T).softmax(dim=1).mean(dim=0)
    shares = torch.tensor([9.5 / 20, 0.3 / 20, 0.95])  # discounted, never 0, never all of the places that begin so
    frequencies = torch.tensor([9.5, 0.3, 69.5]) / 135
    torch.testing.assert_close(found[:3], (frequencies * shares * first[[1, 1, 3]]).sqrt())
    assert found[3] == pytest.approx(2.5 / 135), "without pieces by its frequency"


def test_states_stand_where_tokens_of_both_tokenizations_begin(ring: Ring):
    model, old = _model(ring, True), num_ids(ring.base)
    text = f" {WORDS[0]} {DOUBLES[0]} {WORDS[1]} {DOUBLES[1]} {WORDS[2]}"
    states = read_states(model, ring.base, ring.grown, [text], 100, 100, START, 0)
    grown = ring.grown(text, add_special_tokens=False)["input_ids"]
    assert [i + old for i in states.next_new_N.tolist() if i >= 0] == [i for i in grown if i >= old] != []
    assert len(states.hidden_ND) == len(states.old_N) == len(states.next_old_N) == len(grown)
    ids = ring.base(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([[START, *ids]]), use_cache=False).last_hidden_state[0]
    place = 0
    for state, following, token in zip(states.hidden_ND, states.next_old_N.tolist(), grown, strict=True):
        torch.testing.assert_close(state, hidden[place].float())
        assert following == ids[place]
        place += len(_pieces(ring)[token - old]) if token >= old else 1


def test_no_state_stands_within_a_character_of_several_tokens(ring: Ring):
    text = f" {DOUBLES[0]} कख"  # three bytes each, a token for every byte
    states = read_states(_model(ring, True), ring.base, ring.grown, [text], 100, 100, START, 0)
    ids = ring.base(text, add_special_tokens=False)["input_ids"]
    assert len(ring.base("कख", add_special_tokens=False)["input_ids"]) == 6
    pieces = len(ids) - 7  # of the word; behind it the space and the six bytes
    assert states.next_old_N.tolist() == [ids[place] for place in (0, pieces, pieces + 1, pieces + 4)]


def test_one_long_document_is_read_all_over(ring: Ring):
    """Not only its beginning."""
    one = [" ".join(documents(WORDS, 3, 30, 100))]
    states = read_states(_model(ring, True), ring.base, ring.grown, one, 600, 200, START, 0)
    assert 600 <= len(states.hidden_ND) < 900 and len(states.old_N) == 200 and states.tokens > 604
    assert 0 < states.bytes < len(one[0]) / 2


def test_strength_0_and_no_new_tokens_change_nothing(ring: Ring):
    model = _model(ring, True)
    before = copy.deepcopy(model.state_dict())
    nothing = {"target_bytes": 0, "tokens_forward": 0}
    assert calibrate(model, ring.base, ring.grown, _pieces(ring), _text(), ENGLISH_TEXT, 0.0, START, 0) == nothing
    assert calibrate(model, ring.base, ring.base, [], _text(), ENGLISH_TEXT, 1.0, START, 0) == nothing
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_text_is_said(ring: Ring):
    with pytest.raises(DataError, match=r"text\.target: holds no text.*align\.calibrate to 0"):
        calibrate(_model(ring, True), ring.base, ring.grown, _pieces(ring), [], ENGLISH_TEXT, 0.5, START, 0)
