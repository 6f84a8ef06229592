"""English-Clone: every token has a double with the same row, so what the target language costs is known exactly.

With the softmax over the doubles alone, cloned text costs what English costs. Over the whole doubled vocabulary, every
token of either language costs one bit more: half of the probability mass is the other language's.
"""

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from prealign_cpt.align.contrast import contrastive_loss, relations
from prealign_cpt.model.load import grow_rows
from prealign_cpt.model.loss import LanguageModelLoss, chunked_nll
from prealign_cpt.model.vectors import encode_words, vectors_of
from tests.conftest import ENGLISH, PAIRS, make_model

START_ID = 0


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def models(request, tokenizer) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The English model, and the same one with every row doubled."""
    size = len(tokenizer)
    doubled = make_model(size, tied=request.param)
    grow_rows(doubled, 2 * size, num_old_tokens=size)
    with torch.no_grad():
        for layer in (doubled.get_input_embeddings(), doubled.get_output_embeddings()):
            layer.weight[size:] = layer.weight[:size]
    return make_model(size, tied=request.param), doubled


@pytest.fixture(scope="module")
def text(tokenizer) -> Tensor:
    ids = tokenizer("\n".join(ENGLISH), add_special_tokens=False)["input_ids"]
    return torch.tensor([[START_ID, *ids]])


def nats(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    positions = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        return LanguageModelLoss(model)(ids, ids, positions, each=True)


def clone(ids: Tensor, size: int) -> Tensor:
    """The text in the other language; the start token belongs to both."""
    return torch.where(ids == START_ID, ids, ids + size)


def test_the_clones_alone_cost_what_english_costs(models, text: Tensor, tokenizer):
    base, doubled = models
    cloned = clone(text, len(tokenizer))
    with torch.no_grad():
        hidden = doubled.base_model(input_ids=cloned, use_cache=False).last_hidden_state[0, :-1]
        head = doubled.get_output_embeddings().weight[len(tokenizer) :]
        found = chunked_nll(hidden, text[0, 1:], head)
    torch.testing.assert_close(found, nats(base, text), atol=1e-4, rtol=0)


@pytest.mark.parametrize("language", ["english", "clone"])
def test_the_whole_vocabulary_costs_one_bit_more(models, text: Tensor, tokenizer, language: str):
    base, doubled = models
    ids = text if language == "english" else clone(text, len(tokenizer))
    found, expected = nats(doubled, ids), nats(base, text)
    torch.testing.assert_close(found, expected + math.log(2), atol=1e-4, rtol=0)
    total = float((found - expected).sum() / math.log(2))
    assert total == pytest.approx(text.shape[1] - 1, rel=1e-5)


def test_mixed_text_costs_the_same(models, text: Tensor, tokenizer):
    """Code-switching between an original and its double changes nothing."""
    base, doubled = models
    switched = torch.rand(text.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    mixed = torch.where(switched, clone(text, len(tokenizer)), text)
    torch.testing.assert_close(nats(doubled, mixed), nats(base, text) + math.log(2), atol=1e-4, rtol=0)


def test_rows_that_differ_cost_something_else(models, text: Tensor, tokenizer):
    """The control: the oracle notices a wrong row."""
    base, doubled = models
    weight = doubled.get_input_embeddings().weight
    at = int(text[0, 3]) + len(tokenizer)
    kept = weight[at].detach().clone()
    with torch.no_grad():
        weight[at] += 1.0
        found = nats(doubled, clone(text, len(tokenizer)))
        weight[at] = kept
    assert (found - nats(base, text) - math.log(2)).abs().max() > 1e-3


def test_words_and_their_doubles_have_the_same_vectors(models, tokenizer):
    """The contrastive loss of perfect rows is far below that of shuffled ones, at every layer."""
    _, doubled = models
    size = len(tokenizer)
    words = sorted({source for source, _ in PAIRS})
    english = encode_words(tokenizer, words)
    vectors = vectors_of(doubled, english, START_ID)
    doubles = vectors_of(doubled, [[i + size for i in ids] for ids in english], START_ID)
    torch.testing.assert_close(vectors, doubles, atol=1e-6, rtol=1e-5)

    def loss(target: Tensor) -> float:
        centre = vectors.mean(dim=1, keepdim=True)
        both = torch.stack([vectors - centre, target - centre], dim=2).flatten(1, 2)
        names, groups = [f"{side}:{w}" for w in words for side in "et"], [w for w in words for _ in "et"]
        positive, excluded = relations(names, groups, list(range(len(names))), {})
        return float(contrastive_loss(both, both, positive, excluded, 0.1))

    assert loss(doubles) < 0.5 * loss(doubles.roll(1, dims=1))
