"""Packing, forward passes of packed sequences, and what trained."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.align.pieces import piece_features
from prealign_cpt.align.trainable import ROW_TOKENS, NewRows, Packed, make_trainable, pack
from prealign_cpt.model.loss import LanguageModelLoss
from tests.align.conftest import model_for, weights
from tests.conftest import make_model

START_ID = 0


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=300), min_size=1, max_size=30))
def test_packing_keeps_every_sequence_behind_a_start_token(sequences: list[list[int]]):
    packed = pack(sequences, START_ID)
    flat, width = packed.ids_BT.flatten().tolist(), packed.ids_BT.shape[1]
    used = set()
    for ids, first in zip(sequences, packed.first, strict=True):
        assert flat[first : first + len(ids)] == ids and flat[first - 1] == START_ID
        assert (first - 1) // width == (first + len(ids) - 1) // width, "in one row"
        used |= set(range(first - 1, first + len(ids)))
    assert len(used) == packed.tokens == sum(len(ids) + 1 for ids in sequences)
    assert all(flat[i] == START_ID for i in range(len(flat)) if i not in used)
    assert width <= max(ROW_TOKENS, 301)
    one_each = len(sequences) * (1 + max(map(len, sequences)))
    assert len(flat) <= one_each * (1 + one_each / len(sequences) / 2000), "no worse than a row for each"


@pytest.mark.parametrize("trains", ["new_rows", "all"])
def test_packed_sequences_do_not_see_each_other(grown, num_old: int, trains):
    model = model_for(grown, tied=False)
    sequences = [[5, 9, num_old + 3], [7], [num_old, 8, 11, 12, 13], [40, 41]]
    trained = make_trainable(model, trains, START_ID, num_old)
    packed = pack(sequences, START_ID)
    states = trained.states(packed)
    hidden = trained.hidden(packed)
    assert torch.equal(states[-1], hidden)
    depths = [2, 1]
    for state, depth in zip(trained.run_to(model, depths, trained.embed(packed.ids_BT), packed), depths, strict=True):
        assert depth == 2 or torch.equal(state, states[depth])
        torch.testing.assert_close(model.model.norm(state) if depth == 2 else state, states[depth])
    for ids, first in zip(sequences, packed.first, strict=True):
        expected = model(torch.tensor([[START_ID, *ids]]), output_hidden_states=True).hidden_states
        for found, wanted in zip(states, expected, strict=True):
            torch.testing.assert_close(found[first : first + len(ids)], wanted[0, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trains", ["new_rows", "embeddings", "all"])
def test_gradients_are_the_models_own(grown, num_old: int, trains, tied):
    """Against the plain model's, at both ends: input embeddings and head."""
    ids = torch.tensor([[START_ID, 5, num_old + 3, 9, num_old + 1, 7]])
    plain = model_for(grown, tied)
    LanguageModelLoss(plain)(ids, ids, torch.arange(6)[None]).backward()
    model = model_for(grown, tied)
    trained = make_trainable(model, trains, START_ID, num_old)
    logits = trained.hidden(Packed(ids[:, :-1], [], 5)) @ trained.head().T
    F.cross_entropy(logits, ids[0, 1:], reduction="sum").backward()
    trained.collect()
    if isinstance(trained, NewRows):
        expected = [plain.get_input_embeddings().weight.grad[num_old:]]
        expected += [] if tied else [plain.lm_head.weight.grad[num_old:]]
    else:
        names = {id(p): name for name, p in model.named_parameters()}
        expected = [plain.get_parameter(names[id(p)]).grad for p in trained._moving]
        count = {"embeddings": 0, "all": 19}[trains]
        assert len(expected) == count + (1 if tied else 2)
    for parameter, wanted in zip(trained.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trains", ["new_rows", "all"])
@pytest.mark.parametrize("tied", [True, False])
def test_closing_keeps_or_forgets(grown, num_old: int, trains, tied):
    for keep in (False, True):
        model = model_for(grown, tied)
        before = weights(model)
        trained = make_trainable(model, trains, START_ID, num_old)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter += 1.0
        trained.place()
        probe = torch.tensor([3, num_old + 2])
        torch.testing.assert_close(trained.head()[probe], trained.head_rows(probe))
        wanted = before["model.embed_tokens.weight"][probe].clone()
        wanted[1 if trains == "new_rows" else slice(None)] += 1.0
        torch.testing.assert_close(trained.embed(probe), wanted)
        trained.close(keep)
        after = weights(model)["model.embed_tokens.weight"]
        assert torch.equal(after[num_old:], before["model.embed_tokens.weight"][num_old:] + (1.0 if keep else 0.0))
        assert all(p.requires_grad for p in model.parameters())


def test_an_embedding_that_scales_itself(num_old: int):
    """Gemma 3's embedding module multiplies its rows."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=32, pad_token_id=0,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval()
    trained = NewRows(model, START_ID, 40)
    ids = torch.tensor([[START_ID, 5, 41, 9]])
    expected = model.model(ids, use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(trained.hidden(Packed(ids, [], 4)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_shared_map_moves_what_no_text_shows(grown, num_old: int, tied: bool):
    model = model_for(grown, tied)
    trained = NewRows(model, START_ID, num_old)
    start = trained.rows.detach().clone()
    x = torch.randn(len(start), 5, generator=torch.Generator().manual_seed(2))
    trained.share(x)
    free, shared = trained.parameters()[:2]
    assert len(trained.parameters()) == (2 if tied else 3) and torch.equal(free, start) and not shared.any()
    embedded = trained.embed(torch.tensor([num_old + 2, num_old + 4, 7]))
    embedded.square().sum().backward()
    trained.collect()
    assert free.grad.abs().amax(dim=1).nonzero().flatten().tolist() == [2, 4]
    expected = sum(torch.outer(x[m], 2 * start[m]) for m in (2, 4))
    torch.testing.assert_close(shared.grad, expected)
    with torch.no_grad():
        free[4] += 1.0
        shared -= 0.1 * shared.grad
    trained.place()
    wanted = start - 0.1 * x @ expected
    wanted[4] += 1.0
    torch.testing.assert_close(trained.rows.detach(), wanted)
    trained.close(keep=True)
    torch.testing.assert_close(model.get_input_embeddings().weight[num_old:], wanted)


def test_features_are_what_the_base_makes_of_the_pieces(num_old: int):
    model = make_model(num_old, layers=6)
    trained = NewRows(model, START_ID, num_old)
    pieces = [[5, 9, 7], [11], [], [8, 5]]
    x = piece_features(trained, pieces)
    table = model.get_input_embeddings().weight.detach()
    raw = []
    for ids in (ids for ids in pieces if ids):
        states = model(torch.tensor([[START_ID, *ids]]), output_hidden_states=True).hidden_states
        raw.append(
            torch.cat(
                [*(states[depth][0, -1] for depth in (1, 2, 4)), table[ids[0]], table[ids[-1]], table[ids].mean(dim=0)]
            )
        )
    wanted = torch.stack(raw)
    wanted = (wanted - wanted.mean(dim=0)) / wanted.std(dim=0, correction=0) * 2 / wanted.shape[1] ** 0.5
    torch.testing.assert_close(x[[0, 1, 3], :-1], wanted, atol=1e-4, rtol=1e-3)
    assert not x[2, :-1].any() and (x[:, -1] == 1).all()
