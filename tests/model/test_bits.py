"""Bits per byte: windows lose nothing, a uniform model is known, batches do not matter."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from prealign_cpt.model.bits import Score, batches, score, score_windows, windows
from prealign_cpt.model.loss import LanguageModelLoss
from tests.conftest import ENGLISH, TARGET, make_model

TEXT = st.text(st.sampled_from("aaab   \n\nß日🙂é"), max_size=400)


@given(TEXT, st.integers(64, 90))
@example("a" * 200, 64)
@example("🙂" * 40 + "\n\n" + "日 " * 60, 65)
@example("\n\n\n", 64)
def test_windows_lose_no_text(document: str, limit: int):
    found = windows([document], limit, 10**6)
    assert all(0 < len(window.encode()) <= limit for window in found)
    assert "".join(found).replace("\n", "") == document.replace("\n", "")


@given(st.lists(st.text("ab", min_size=1, max_size=20), max_size=30))
def test_short_lines_are_kept_whole(lines: list[str]):
    assert "\n".join(windows(["\n".join(lines)], 64, 10**6)) == "\n".join(lines)


def test_windows_are_filled_and_cut_at_spaces():
    lines = ["x" * 20] * 7
    assert [len(window) for window in windows(["\n".join(lines)], 64, 10**6)] == [62, 62, 20]
    words = " ".join(["word"] * 40)
    found = windows([words], 64, 10**6)
    assert "".join(found) == words and all(window.strip().split(" ")[0] == "word" for window in found)


def test_max_bytes_bounds_what_is_scored():
    documents = ["a" * 64, "b" * 64, "c" * 64]
    assert windows(iter(documents), 64, 65) == documents[:2]
    assert windows(documents, 64, 64) == documents[:1]
    assert windows(["a\nb", "c"], 64, 1000) == ["a\nb", "c"], "a window never holds two documents"


def test_paragraphs_inside_a_document_are_kept():
    assert windows(["first\n\nsecond"], 64, 1000) == ["first\n\nsecond"]


def test_a_uniform_model(tokenizer):
    model = make_model(len(tokenizer), tied=False)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    texts = windows(TARGET, 64, 10**6)
    prepared = batches(texts, tokenizer, 0, 256)
    found = score(LanguageModelLoss(model), prepared)
    num_bytes = sum(len(text.encode()) for text in texts)
    num_tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert (found.bytes, found.tokens) == (num_bytes, num_tokens)
    assert found.bits_per_byte == pytest.approx(math.log2(len(tokenizer)) * num_tokens / num_bytes, rel=1e-6)


def test_batching_does_not_change_the_score(tokenizer):
    module = LanguageModelLoss(make_model(len(tokenizer)))
    texts = windows(ENGLISH + TARGET, 64, 10**6)
    alone = batches(texts, tokenizer, 0, 1)
    together = batches(texts, tokenizer, 0, 10**6)
    assert len(alone) == len(texts) and len(together) == 1
    scores = [score(module, prepared) for prepared in (alone, batches(texts, tokenizer, 0, 100), together)]
    for other in scores[1:]:
        assert (other.bytes, other.tokens) == (scores[0].bytes, scores[0].tokens)
        assert other.nats == pytest.approx(scores[0].nats, rel=1e-6)
    reference = 0.0
    for text in texts:
        ids = torch.tensor([[0, *tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            log_p = module.model(ids).logits[0, :-1].log_softmax(dim=-1)
        reference -= float(log_p.gather(1, ids[0, 1:, None]).sum())
    assert scores[0].nats == pytest.approx(reference, rel=1e-5)


def test_batches_stay_within_the_budget(tokenizer):
    texts = windows(ENGLISH + TARGET, 64, 10**6)
    for batch in batches(texts, tokenizer, 0, 120):
        assert batch.inputs.numel() <= 120 and batch.inputs.shape == batch.labels.shape == batch.positions.shape
        assert (batch.labels[:, 0] == -100).all() and (batch.inputs[:, 0] == 0).all()
        assert int((batch.labels != -100).sum()) == batch.tokens


def test_text_like_the_start_token_is_scored_as_text(tokenizer):
    (batch,) = batches(["<|endoftext|>"], tokenizer, 0, 100)
    assert batch.tokens > 1 and not (batch.labels == 0).any()


def test_scoring_leaves_the_mode_as_it_was(tokenizer):
    module = LanguageModelLoss(make_model(len(tokenizer)))
    prepared = batches(["a"], tokenizer, 0, 100)
    for training in (True, False):
        module.train(training)
        score(module, prepared)
        assert module.training == module.model.training == training


def test_scores_add_up():
    assert Score(1.0, 2, 3) + Score(4.0, 5, 6) == Score(5.0, 7, 9)
    assert Score(math.log(2) * 8, 4, 1).bits_per_byte == pytest.approx(2.0)


def test_windows_are_scored_one_by_one_in_the_order_of_the_text(tokenizer):
    module = LanguageModelLoss(make_model(len(tokenizer))).train()
    texts = windows(ENGLISH + TARGET, 64, 10**6)
    expected = [score(module, batches([text], tokenizer, 0, 10**6)) for text in texts]
    for batch_tokens in (1, 200, 10**6):
        found = score_windows(module, batches(texts, tokenizer, 0, batch_tokens))
        assert [size for _, size in found] == [len(text.encode()) for text in texts]
        assert [nats for nats, _ in found] == pytest.approx([one.nats for one in expected], rel=1e-5)
    assert module.training
