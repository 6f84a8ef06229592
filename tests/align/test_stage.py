"""The contrastive stage on a tiny model: what moves, what stays, and that it does what it is for."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from prealign_cpt.align.stage import WINDOW, Anchor, english_anchor, target_windows, train_rows
from prealign_cpt.errors import NumericError
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe import Align
from prealign_cpt.vocab.rows import grow_rows
from tests.conftest import ENGLISH, PAIRS, TARGET, make_model, make_tokenizer

START_ID = 0
LEXICON = [Pair(*pair) for pair in PAIRS]
NUM_NEW = 18
"""So many target words become tokens; the other words keep their old pieces."""


@pytest.fixture(scope="module")
def grown():
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.add_tokens([f" {target}" for _, target in PAIRS[:NUM_NEW]])
    return tokenizer


@pytest.fixture(scope="module")
def new_ids(grown) -> list[int]:
    return list(range(len(grown) - NUM_NEW, len(grown)))


def model_for(grown, tied: bool = True) -> LlamaForCausalLM:
    """Grown, with scattered new rows as a static start."""
    num_old = len(grown) - NUM_NEW
    model = make_model(num_old, tied=tied)
    grow_rows(model, len(grown), num_old_tokens=num_old)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in {id(w): w for w in (model.get_input_embeddings().weight, model.lm_head.weight)}.values():
            weight[num_old:] = 0.2 * torch.randn(NUM_NEW, weight.shape[1], generator=generator)
    return model


def encoded(grown, texts: list[str]) -> list[list[int]]:
    return [grown(text, add_special_tokens=False)["input_ids"] for text in texts]


def anchor_for(model: LlamaForCausalLM, grown) -> Anchor:
    return english_anchor(model, len(grown) - NUM_NEW, encoded(grown, ENGLISH), START_ID, 2 * WINDOW)


def text_for(grown, num_windows: int = 4) -> Tensor:
    return target_windows(encoded(grown, TARGET * 3), START_ID, num_windows, seed=0)


def logits_of(model: LlamaForCausalLM, window: Tensor) -> Tensor:
    """Logits [T - 1, V] of a packed window, each of its documents by itself."""
    parts: list[list[int]] = []
    for i in window[:-1].tolist():
        if i == START_ID or not parts:
            parts.append([])
        parts[-1].append(i)
    assert len(parts) > 1, "several documents, or this would prove less"
    with torch.no_grad():
        return torch.cat([model(torch.tensor([part])).logits[0] for part in parts])


def weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_new_rows_move(grown, new_ids: list[int], tied: bool):
    model = model_for(grown, tied)
    before = weights(model)
    figures: list[dict[str, float]] = []
    recipe = Align(steps=30, words=12, lr=1e-2, weight=1.0, anchor_tokens=32, target_tokens=WINDOW)
    anchor, text = anchor_for(model, grown), text_for(grown)
    done = train_rows(model, grown, new_ids, LEXICON, anchor, text, recipe, START_ID, 0, figures.append)
    # `house` has two translations, so 18 target words belong to 17 entries.
    assert done == {"entries": NUM_NEW - 1, "steps": 30, "target_tokens": 30 * WINDOW}
    after = weights(model)
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    for name, value in before.items():
        if name in tables:
            first = new_ids[0]
            assert torch.equal(after[name][:first], value[:first]), f"{name}: an old row moved"
            assert ((after[name][first:] - value[first:]).abs().amax(dim=1) > 1e-4).all(), f"{name}: a row stayed"
        else:
            assert torch.equal(after[name], value), name
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"]) == tied
    assert all(p.requires_grad for p in model.parameters()) and all(p.grad is None for p in model.parameters())
    assert [row["step"] for row in figures] == list(range(1, 31))
    for key, share in (("contrastive", 0.9), ("target_text", 1.0)):
        early, late = (sum(row[key] for row in part) / 5 for part in (figures[:5], figures[-5:]))
        assert late < share * early, key


def test_one_seed_one_result(grown, new_ids: list[int]):
    def rows(seed: int) -> Tensor:
        model = model_for(grown)
        recipe = Align(steps=3, words=6, lr=1e-2, anchor_tokens=16)
        train_rows(model, grown, new_ids, LEXICON, anchor_for(model, grown), None, recipe, START_ID, seed)
        return model.get_input_embeddings().weight.detach()[new_ids]

    assert torch.equal(rows(0), rows(0))
    assert not torch.equal(rows(0), rows(1))


def test_alignment_brings_translations_nearer(grown, new_ids: list[int]):
    """Without any text, the embeddings of single-token pairs become alike; those of other pairs do not."""
    model = model_for(grown)

    def alike() -> tuple[float, float]:
        table = model.get_input_embeddings().weight.detach()
        english = [
            table[grown(f" {source}", add_special_tokens=False)["input_ids"]].mean(dim=0)
            for source, _ in PAIRS[:NUM_NEW]
        ]
        both = F.cosine_similarity(torch.stack(english)[:, None], table[new_ids][None], dim=-1)
        return float(both.diagonal().mean()), float(both.mean())

    before = alike()
    train_rows(model, grown, new_ids, LEXICON, None, None, Align(steps=40, words=17, lr=2e-2, weight=1.0), START_ID, 0)
    after = alike()
    assert after[0] - after[1] > 0.2 + before[0] - before[1]


def test_nothing_to_move(grown):
    model = model_for(grown)
    before = weights(model)
    others = LEXICON[NUM_NEW:]
    done = train_rows(model, grown, [len(grown) - 1], others, None, None, Align(steps=3), START_ID, 0)
    assert done == {"entries": 0, "steps": 0, "reason": "no translation contains a new token"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loss_that_is_not_finite(grown, new_ids: list[int]):
    model = model_for(grown)
    before = weights(model)
    broken = Anchor(torch.zeros(4, 32), torch.zeros(4), torch.full((4,), math.nan))
    with pytest.raises(NumericError, match=r"align\.lr.*step 1; lower align\.lr") as caught:
        train_rows(model, grown, new_ids, LEXICON, broken, None, Align(steps=3, words=6), START_ID, 0)
    assert caught.value.exit_code == 79
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_failed_stage_leaves_the_model_trainable(grown, new_ids: list[int]):
    model = model_for(grown)
    broken = Anchor(torch.zeros(4, 32), torch.zeros(4), torch.full((4,), math.nan))
    with pytest.raises(NumericError):
        train_rows(model, grown, new_ids, LEXICON, broken, None, Align(steps=3, words=6), START_ID, 0)
    assert all(p.requires_grad for p in model.parameters())


def test_rows_that_are_not_finite_after_the_last_step(grown, new_ids: list[int], monkeypatch: pytest.MonkeyPatch):
    model = model_for(grown)
    before = weights(model)

    def overflow(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    with pytest.raises(NumericError, match="not finite after the last step"):
        train_rows(model, grown, new_ids, LEXICON, None, None, Align(steps=1), START_ID, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_the_anchor_is_the_models_loss_on_the_text(grown, new_ids: list[int], tied: bool):
    model = model_for(grown, tied)
    documents = encoded(grown, ENGLISH * 3)
    anchor = english_anchor(model, new_ids[0], documents, START_ID, 2 * WINDOW)
    stream = torch.tensor([i for ids in documents for i in [START_ID, *ids]])
    windows = [stream[: WINDOW + 1], stream[WINDOW : 2 * WINDOW + 1]]
    logits, labels = torch.cat([logits_of(model, w) for w in windows]), torch.cat([w[1:] for w in windows])
    rows = model.get_output_embeddings().weight[new_ids].detach()
    assert len(anchor.hidden_ND) == len(labels) == 2 * WINDOW
    for chosen in (torch.arange(len(labels)), torch.tensor([3, 3, 70, 200])):
        expected = F.cross_entropy(logits[chosen], labels[chosen])
        torch.testing.assert_close(anchor.loss(rows, chosen), expected, atol=1e-5, rtol=1e-5)


def test_the_anchors_labels_are_old_tokens(grown, new_ids: list[int]):
    model = model_for(grown)
    plain = encoded(grown, ENGLISH)
    mixed = [[new_ids[0], *ids, new_ids[-1]] for ids in plain]
    one, other = (english_anchor(model, new_ids[0], ids, START_ID, WINDOW) for ids in (plain, mixed))
    assert torch.equal(one.hidden_ND, other.hidden_ND) and torch.equal(one.label_logit_N, other.label_logit_N)


def test_the_anchor_stops_when_it_has_enough(grown, new_ids: list[int]):
    document = encoded(grown, [" ".join(ENGLISH)])[0][:100]
    read = []

    def documents():
        for n in range(50):
            read.append(n)
            yield document

    anchor = english_anchor(model_for(grown), new_ids[0], documents(), START_ID, WINDOW)
    assert len(anchor.hidden_ND) == WINDOW and len(read) <= 3


def test_an_anchor_of_little_text(grown, new_ids: list[int]):
    (document,) = encoded(grown, ENGLISH[:1])
    assert len(document) < WINDOW
    anchor = english_anchor(model_for(grown), new_ids[0], [document], START_ID, 8 * WINDOW)
    assert len(anchor.hidden_ND) == len(document)


@pytest.mark.parametrize("tied", [True, False])
def test_the_target_text_loss_is_the_models(grown, new_ids: list[int], tied: bool):
    model = model_for(grown, tied)
    text = text_for(grown, 3)
    assert text.shape == (3, WINDOW + 1)
    expected = [float(F.cross_entropy(logits_of(model, w), w[1:])) for w in text]
    figures: list[dict[str, float]] = []
    recipe = Align(steps=2, words=6, lr=1e-12, target_tokens=2 * WINDOW)
    train_rows(model, grown, new_ids, LEXICON, None, text, recipe, START_ID, 0, figures.append)
    found = [row["target_text"] for row in figures]
    assert found[0] == pytest.approx((expected[0] + expected[1]) / 2, abs=1e-5)
    assert found[1] == pytest.approx((expected[2] + expected[0]) / 2, abs=1e-5), "read from the front again"


def test_target_text_moves_the_rows_at_both_ends(grown, new_ids: list[int]):
    model = model_for(grown, tied=False)
    before = weights(model)
    recipe = Align(steps=5, words=6, lr=1e-2, weight=0.0, target_tokens=2 * WINDOW)
    train_rows(model, grown, new_ids, LEXICON, None, text_for(grown), recipe, START_ID, 0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        moved = (model.state_dict()[name] - before[name])[new_ids].abs().amax(dim=1)
        assert (moved > 1e-4).any(), name


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


def test_empty_target_text_leaves_its_loss_out(grown, new_ids: list[int]):
    figures: list[dict[str, float]] = []
    empty = target_windows([], START_ID, 5, seed=0)
    recipe = Align(steps=1, words=6)
    done = train_rows(model_for(grown), grown, new_ids, LEXICON, None, empty, recipe, START_ID, 0, figures.append)
    assert figures[0]["target_text"] == figures[0]["anchor"] == 0.0 and done["target_tokens"] == 0
