"""A text in two tokenizations, the divergence against torch's, and the loss against the plain models'."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3ForCausalLM, LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM

from prealign_cpt.align.distill import WINDOW, Distillation, TwoReadings, _spread, divergence, two_readings
from prealign_cpt.align.pieces import piece_features
from prealign_cpt.align.stage import train
from prealign_cpt.align.trainable import make_trainable, pack
from prealign_cpt.model.depth import states_behind
from prealign_cpt.model.load import grow_rows
from prealign_cpt.recipe.schema import Align
from tests.align.conftest import ALONE, NOTHING, NUM_WORDS, START_ID, WORDS, Ring, documents, model_for, weights
from tests.conftest import TARGET, make_model


def reference(student, head, teacher, teacher_head):
    p, q = (teacher @ teacher_head.T).log_softmax(dim=-1), (student @ head.T).log_softmax(dim=-1)
    return F.kl_div(q, p, log_target=True, reduction="sum")


@pytest.mark.parametrize("chunk", [512, 4])
@pytest.mark.parametrize("moving_head", [True, False])
def test_the_divergence_and_its_gradient_are_torchs(monkeypatch: pytest.MonkeyPatch, chunk: int, moving_head: bool):
    monkeypatch.setattr("prealign_cpt.align.distill.CHUNK", chunk)
    torch.manual_seed(0)
    teacher, teacher_head = torch.randn(11, 6), torch.randn(20, 6)
    found = []
    for function in divergence, reference:
        torch.manual_seed(1)
        student = torch.randn(11, 6, requires_grad=True)
        head = torch.randn(20, 6, requires_grad=moving_head)
        value = function(student, head, teacher, teacher_head)
        (3 * value).backward()
        found.append([value.detach(), student.grad, head.grad])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert float(divergence(teacher, teacher_head, teacher, teacher_head)) == pytest.approx(0, abs=1e-5)


def test_both_tokenizations_have_read_the_same_text(grown, tokenizer, num_old: int):
    documents = [text * 3 for text in TARGET]
    texts = two_readings(documents, grown, tokenizer, 10**6, seed=0)
    assert max(len(reading.student) for reading in texts) <= WINDOW
    whole = 0
    for reading in texts:
        text = grown.decode(reading.student)
        assert text == tokenizer.decode(reading.teacher) and reading.bytes == len(text.encode())
        assert max(reading.teacher) < num_old <= max(reading.student)
        first = next(i for i, token in enumerate(reading.student) if token >= num_old)
        assert reading.places[0][1] >= first and reading.places[-1] == (
            len(reading.teacher) - 1,
            len(reading.student) - 1,
        )
        assert all(t < u and s < v for (t, s), (u, v) in pairwise(reading.places))
        for t, s in reading.places:
            assert grown.decode(reading.student[: s + 1]) == tokenizer.decode(reading.teacher[: t + 1])
        students = [grown.decode(reading.student[: s + 1]) for s in range(first, len(reading.student))]
        teachers = {tokenizer.decode(reading.teacher[: t + 1]) for t in range(len(reading.teacher))}
        shared = sum(text in teachers and not text.endswith("\ufffd") for text in students)
        assert len(reading.places) == shared, "and none is missed"
        whole += reading.bytes
    assert whole <= sum(len(text.encode()) for text in documents)


def test_characters_of_several_tokens(grown, tokenizer):
    """Characters that the tokenizer has only bytes for."""
    (reading,) = two_readings(["€ Haus 水 Wasser ö€"], grown, tokenizer, 1000, seed=0)
    assert len(reading.teacher) > len(reading.student)
    for t, s in reading.places:
        assert grown.decode(reading.student[: s + 1]) == tokenizer.decode(reading.teacher[: t + 1])
        assert "\ufffd" not in grown.decode(reading.student[: s + 1])


def test_text_without_a_new_token_teaches_nothing(grown, tokenizer):
    assert two_readings(["Nichts davon.", "a"], grown, tokenizer, 1000, seed=0) == []
    assert len(two_readings(TARGET * 9, grown, tokenizer, 60, seed=0)) < 40


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trains", ["new_rows", "all"])
@pytest.mark.parametrize("to", ["states", "logits"])
def test_the_loss_is_that_of_the_plain_models(grown, tokenizer, num_old: int, tied: bool, trains: str, to: str):
    model = model_for(grown, tied)
    texts = two_readings(TARGET, grown, tokenizer, 10**6, seed=0)[:3]
    trained = make_trainable(model, trains, START_ID, num_old)
    term = Distillation(trained, texts, 1, 4, 1.0, to, ALONE)

    def compared(ids: list[int]) -> torch.Tensor:
        read = model(torch.tensor([[START_ID, *ids]]), output_hidden_states=True)
        return read.hidden_states[1][0, 1:] if to == "states" else read.logits[0, 1:, :num_old].log_softmax(dim=-1)

    with torch.no_grad():
        scale = None
        for step, reading in enumerate([*texts, texts[0]]):
            t, s = (torch.tensor(side) for side in zip(*reading.places, strict=True))
            old, new = compared(reading.teacher)[t], compared(reading.student)[s]
            scale = old.std(dim=0, correction=0) + 1e-3 if scale is None else scale  # the first step's
            expected = F.kl_div(new, old, log_target=True, reduction="sum") / len(t)
            if to == "states":
                expected = ((new - old) / scale).square().mean()
            torch.testing.assert_close(term.loss(step), expected, atol=1e-5, rtol=1e-4)
    assert term.bytes == sum(reading.bytes for reading in [*texts, texts[0]])


def test_only_a_third_of_the_blocks_runs_and_is_counted(grown, tokenizer, num_old: int):
    model = make_model(len(grown), layers=6)
    trained = make_trainable(model, "new_rows", START_ID, num_old)
    texts = two_readings(TARGET, grown, tokenizer, 10**6, seed=0)[:2]
    term = Distillation(trained, texts, 10**3, 1, 1.0, "states", ALONE)
    trained.flops, ran = 0.0, []
    for n, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, n=n: ran.append(n))
    term.loss(0)
    assert ran == [0, 1, 0, 1]
    third = sum(p.numel() for p in model.model.layers[:2].parameters() if p.ndim == 2)
    read, taught = (
        sum(len(ids) + 1 for ids in side) for side in ([x.student for x in texts], [x.teacher for x in texts])
    )
    assert trained.flops == third * (4 * read + 2 * taught)


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Qwen3ForCausalLM, Gemma3ForCausalLM])
def test_the_first_blocks_of_other_families(kind: type[PreTrainedModel]):
    config = kind.config_class(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = kind(config).eval()
    ids = torch.tensor([[0, 5, 9, 3, 7]])
    expected = model(ids, output_hidden_states=True).hidden_states
    for found, depth in zip(states_behind(model, [2, 1, 2], input_ids=ids), [2, 1, 2], strict=True):
        torch.testing.assert_close(found, expected[depth])


def test_an_error_leaves_the_model_whole(num_old: int):
    model = make_model(num_old, layers=3)
    whole = model.model.layers

    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    failing = whole[1].register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        states_behind(model, [1, 2], input_ids=torch.tensor([[0, 5]]))
    failing.remove()
    assert model.model.layers is whole and len(whole) == 3
    assert not any(block._forward_hooks for block in whole)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 30), st.integers(1, 80))
def test_one_reading_is_spread_over_the_steps(sizes: list[int], steps: int, most: int):
    texts = [TwoReadings([1] * size, [2] * size, [(0, 0)], size) for size in sizes]
    tokens = min(most, sum(sizes) / steps)
    spread = _spread(texts, tokens, steps)
    read = [text for step in spread for text in step]
    assert len(spread) == steps and all(spread)
    assert all(text is texts[i % len(texts)] for i, text in enumerate(read)), "from front to back"
    if max(sizes) <= tokens:
        assert len(read) <= len(texts), "never twice"
        assert all(abs(sum(len(text.student) for text in step) - tokens) <= max(sizes) for step in spread)
        if tokens < most:
            assert len(read) == len(texts), "and to the end"


@pytest.mark.parametrize("to", ["states", "logits"])
def test_the_teacher_does_not_move(grown, tokenizer, num_old: int, to: str):
    trained = make_trainable(model_for(grown, tied=False), "all", START_ID, num_old)
    texts = two_readings(TARGET, grown, tokenizer, 100, seed=0)
    term = Distillation(trained, texts, 100, 1, 1.0, to, ALONE)
    packed = pack([texts[0].student], START_ID)
    before, hidden, loss = term._taught(texts), trained.hidden(packed).detach(), float(term.loss(0).detach())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter *= 1.5
    trained.place()
    assert torch.equal(term._taught(texts), before) and not torch.equal(trained.hidden(packed), hidden)
    assert float(term.loss(0).detach()) != loss


@pytest.mark.parametrize("to", ["states", "logits"])
@pytest.mark.parametrize("trains", ["new_rows", "all"])
def test_it_lowers_its_loss(grown, num_old: int, stage: Any, trains: str, to: str):
    """By input rows alone where only new rows move: then no output row of an untied model does, nor any English bit."""
    model = model_for(grown, tied=False)
    before = weights(model)
    only = (*NOTHING, "--align.distill", "2", "--align.distill_to", to, "--align.trains", trains)
    rate = "2e-2" if trains == "new_rows" else "2e-3"
    done, figures = stage(model, *only, "--align.steps", "25", "--align.lr", rate)
    assert set(figures[0]) == {"step", "distill"} and done["target_bytes"] > 0 and done["flops"] > 0
    early, late = (sum(row["distill"] for row in part) for part in (figures[:5], figures[-5:]))
    assert late < 0.8 * early
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    if trains == "new_rows":
        assert moved == {"model.embed_tokens.weight"}
        assert torch.equal(model.get_input_embeddings().weight[:num_old], before["model.embed_tokens.weight"][:num_old])


def test_beside_the_contrast(grown, stage: Any):
    _, figures = stage(model_for(grown, tied=False), "--align.distill", "1")
    assert set(figures[0]) == {"step", "distill", "contrastive"}


def test_text_without_new_tokens_is_said(grown, recipe_file: Path, stage: Any, capsys: pytest.CaptureFixture[str]):
    (recipe_file.parent / "target.txt").write_text("Nichts davon.")
    done, _ = stage(model_for(grown), *NOTHING, "--align.distill", "1")
    assert done["steps"] == 0 and done["reason"] == "no new token stands in the target text"
    assert "no distillation: no new token" in capsys.readouterr().out


def clone_bits(model: LlamaForCausalLM, texts: list[TwoReadings]) -> float:
    """Bits per clone after the first."""
    ids = torch.tensor([text.student for text in texts])
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    return float(F.cross_entropy(logits, ids[:, 1:].flatten())) / math.log(2)


def test_clones_become_their_originals(ring: Ring):
    """Each new token is an old word by another name, and is predicted by the original's output row: once its input
    row is learned, held-out text in clones costs what it costs in words."""
    words, num_old = torch.tensor(ring.old_ids), len(ring.base)
    walks = [words[[WORDS.index(w) for w in text.split()]] for text in documents(WORDS, 0, 204, 80)]
    model = make_model(num_old, tied=False, layers=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        ids = torch.stack([walks[(8 * step + k) % 192] for k in range(8)])
        loss = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    grow_rows(model, num_old + NUM_WORDS, num_old)
    place = {int(old): num_old + i for i, old in enumerate(words)}
    texts = [
        TwoReadings(ids.tolist(), [place[i] for i in ids.tolist()], [(n, n) for n in range(len(ids))], 1)
        for ids in walks
    ]
    with torch.no_grad():
        model.lm_head.weight[num_old:] = model.lm_head.weight[words]
        model.get_input_embeddings().weight[num_old:] += 0.1 * torch.randn(NUM_WORDS, 32)
        best = float(F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())) / math.log(2)
        start = clone_bits(model, texts[192:])
    trained = make_trainable(model, "new_rows", START_ID, num_old)
    held_out = Distillation(trained, texts[192:], 10**4, 1, 1.0, "states", ALONE)
    difference = float(held_out.loss(0).detach())
    trained.share(piece_features(trained, [[i] for i in ring.old_ids]))
    term = Distillation(trained, texts[:192], 480, 200, 1.0, "states", ALONE)
    train(trained, [term], Align(steps=200, lr=1e-2), lambda _: None, ALONE)
    after = float(held_out.loss(0).detach())
    trained.close(keep=True)
    with torch.no_grad():
        end = clone_bits(model, texts[192:])
    assert after < 0.2 * difference
    assert end - best < 0.1 * (start - best)
