"""Windows of text, and the language-model losses against the plain model's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from prealign_cpt.align.language_model import WINDOW, FrozenTextLoss, TextLoss, english_windows, target_windows
from prealign_cpt.align.trainable import NewRows, make_trainable
from tests.align.conftest import ALONE, START_ID, encoded, model_for
from tests.conftest import ENGLISH, TARGET


def logits_of(model: LlamaForCausalLM, window: Tensor) -> Tensor:
    """Logits [T - 1, V] of a packed window, each of its documents by itself."""
    documents: list[list[int]] = []
    for i in window[:-1].tolist():
        if i == START_ID or not documents:
            documents.append([])
        documents[-1].append(i)
    assert len(documents) > 1, "several documents, or this would prove less"
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0] for ids in documents])


@pytest.mark.parametrize("tied", [True, False])
def test_the_anchor_is_the_models_loss_on_the_text(grown, num_old: int, tied: bool):
    model = model_for(grown, tied)
    windows = english_windows(encoded(grown, ENGLISH * 3), num_old, START_ID, 2)
    anchor = FrozenTextLoss("anchor", NewRows(model, START_ID, num_old), windows, 50, seed=0, world=ALONE)
    logits, labels = torch.cat([logits_of(model, w) for w in windows]), torch.cat([w[1:] for w in windows])
    assert len(anchor.hidden_ND) == len(labels) == 2 * WINDOW
    for chosen in (torch.arange(len(labels)), torch.tensor([3, 3, 70, 200])):
        expected = F.cross_entropy(logits[chosen], labels[chosen])
        torch.testing.assert_close(anchor.nats(chosen).mean(), expected, atol=1e-5, rtol=1e-5)
    picked = torch.randint(len(labels), (50,), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(anchor.loss(4), F.cross_entropy(logits[picked], labels[picked]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trains", ["new_rows", "all"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_text_loss_is_the_models(grown, num_old: int, tied: bool, trains):
    model = model_for(grown, tied)
    windows = target_windows(encoded(grown, TARGET * 3), START_ID, 3, seed=0)
    assert windows.shape == (3, WINDOW + 1)
    expected = [float(F.cross_entropy(logits_of(model, w), w[1:])) for w in windows]
    text = TextLoss("text", make_trainable(model, trains, START_ID, num_old), windows, per_step=2, world=ALONE)
    assert float(text.loss(0)) == pytest.approx((expected[0] + expected[1]) / 2, abs=1e-5)
    assert float(text.loss(1)) == pytest.approx((expected[2] + expected[0]) / 2, abs=1e-5), "from the front again"


def test_text_moves_the_rows_at_both_ends(grown, num_old: int):
    moves = NewRows(model_for(grown, tied=False), START_ID, num_old)
    TextLoss(
        "text", moves, target_windows(encoded(grown, TARGET * 3), START_ID, 3, seed=0), per_step=3, world=ALONE
    ).loss(0).backward()
    assert all((parameter.grad.abs().amax(dim=1) > 1e-6).any() for parameter in moves.parameters())


def test_the_anchors_labels_are_old_tokens(grown, num_old: int):
    plain = encoded(grown, ENGLISH)
    mixed = [[num_old, *ids, num_old + 5] for ids in plain]
    assert torch.equal(*(english_windows(ids, num_old, START_ID, 2) for ids in (plain, mixed)))


def test_reading_stops_when_there_is_enough(grown, num_old: int):
    document = encoded(grown, [" ".join(ENGLISH)])[0][:100]
    read = []

    def documents():
        for n in range(50):
            read.append(n)
            yield document

    assert english_windows(documents(), num_old, START_ID, 1).shape == (1, WINDOW + 1) and len(read) <= 3


def test_an_anchor_of_little_text(grown, num_old: int):
    windows = english_windows([[5, 6, 7]], num_old, START_ID, 8)
    assert windows.tolist() == [[START_ID, 5, 6, 7]]
    anchor = FrozenTextLoss("anchor", NewRows(model_for(grown), START_ID, num_old), windows, 10, seed=0, world=ALONE)
    assert len(anchor.hidden_ND) == 3 and torch.isfinite(anchor.loss(0))


@given(st.lists(st.integers(0, 300), max_size=5))
@example([])
@example([0])
@example([WINDOW])
@example([WINDOW - 1, 0])
def test_windows_are_the_documents_end_to_end(lengths: list[int]):
    numbers = iter(range(1, 2000))
    documents = [[next(numbers) for _ in range(length)] for length in lengths]
    stream = [i for ids in documents for i in [START_ID, *ids]]
    found = target_windows(iter(documents), START_ID, 100, seed=0).tolist()
    if len(stream) <= WINDOW:
        assert found == ([stream] if len(stream) > 1 else [])
        return
    num_windows = (len(stream) - 1) // WINDOW
    assert sorted(found) == sorted(stream[k * WINDOW : (k + 1) * WINDOW + 1] for k in range(num_windows))


def test_target_windows_are_a_fixed_sample():
    documents = [list(range(1000, 1000 + WINDOW * 6))]
    found = target_windows(documents, START_ID, 3, seed=0)
    assert found.shape == (3, WINDOW + 1) and found.dtype == torch.int64 and len(set(found[:, 1].tolist())) == 3
    assert torch.equal(found, target_windows(iter(documents), START_ID, 3, seed=0))
    assert not torch.equal(found, target_windows(documents, START_ID, 3, seed=1))
