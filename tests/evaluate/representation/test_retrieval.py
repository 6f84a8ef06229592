"""Word retrieval on clones of English words, where the answer is known."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from prealign_cpt.evaluate.representation import retrieval
from prealign_cpt.evaluate.representation.retrieval import word_retrieval
from prealign_cpt.lexicon.pairs import Pair
from tests.conftest import ENGLISH, PAIRS, make_model, make_tokenizer

WORDS = sorted({source for source, _ in PAIRS})
CLONES = [Pair(word, f"zz{word}") for word in WORDS]


@pytest.fixture(scope="module")
def cloned():
    """A tokenizer in which every English word is one token and has one more, its clone."""
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.add_tokens([f" {word}" for word in WORDS])
    tokenizer.add_tokens([f" zz{word}" for word in WORDS])
    return tokenizer


def model_for(tokenizer, identical: bool) -> LlamaForCausalLM:
    model = make_model(len(tokenizer))
    if identical:
        with torch.no_grad():
            weight = model.get_input_embeddings().weight
            weight[-len(WORDS) :] = weight[-2 * len(WORDS) : -len(WORDS)]
    return model


def test_identical_rows_are_found(cloned):
    found = word_retrieval(model_for(cloned, True), cloned, CLONES[:12], CLONES[12:], 0, seed=0)
    assert (found.p1, found.seen_p1) == (1.0, 1.0)
    assert (found.words, found.candidates) == (len(WORDS) - 12, len(WORDS))


def test_random_rows_are_not(cloned):
    found = word_retrieval(model_for(cloned, False), cloned, CLONES[:12], CLONES[12:], 0, seed=0)
    assert found.p1 < 0.5


def test_any_translation_counts(cloned):
    """Two translations each; only the second one is identical."""
    decoys = [Pair(word, f"zq{word}") for word in WORDS]
    both = [pair for couple in zip(decoys, CLONES, strict=True) for pair in couple]
    found = word_retrieval(model_for(cloned, True), cloned, both[:24], both[24:], 0, seed=0)
    assert found.p1 == 1.0 and found.candidates == 2 * len(WORDS)


def test_identical_spellings_are_left_out(cloned):
    heldout = [*CLONES[12:], Pair("taxi", "Taxi"), Pair("radio", "radio")]
    found = word_retrieval(model_for(cloned, True), cloned, CLONES[:12], heldout, 0, seed=0)
    assert found.words == len(WORDS) - 12 and found.candidates == len(WORDS)


def test_the_sample_is_bounded_and_fixed(cloned):
    model = model_for(cloned, False)
    found = [word_retrieval(model, cloned, CLONES[:12], CLONES[12:], 0, 1, most=5, most_train=7) for _ in range(2)]
    assert found[0] == found[1] and found[0].words == 5 and found[0].candidates == 12


def test_training_words_do_not_choose_the_layer(cloned, monkeypatch: pytest.MonkeyPatch):
    """Layer 0 knows the held-out words alone, layer 1 the training words alone: layer 0 must be reported."""
    known = [set(WORDS[12:]), set(WORDS[:12])]

    def crafted(model: object, encoded: list[list[int]], start_id: int) -> Tensor:
        out = torch.zeros(2, len(encoded), len(WORDS))
        for w, ids in enumerate(encoded):
            text = cloned.decode(ids).strip()
            word = text.removeprefix("zz")
            for layer in (0, 1):
                # An unknown English word stands where the clone of its neighbour of the same half does.
                half = WORDS[:12] if word in WORDS[:12] else WORDS[12:]
                shift = 0 if word in known[layer] or text.startswith("zz") else 1
                out[layer, w, WORDS.index(half[(half.index(word) + shift) % len(half)])] = 1.0
        return out

    monkeypatch.setattr(retrieval, "vectors_of", crafted)
    found = word_retrieval(make_model(len(cloned)), cloned, CLONES[:12], CLONES[12:], 0, seed=0)
    assert (found.layer, found.seen_p1, found.p1) == (0, 0.0, 1.0)


def test_languages_are_centred(cloned):
    """Languages far apart, with longer and shorter clones: without centring the long ones would be nearest to all."""
    model = model_for(cloned, True)
    apart = 5 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([0.5, 3.0]).repeat(len(WORDS))[: len(WORDS), None]
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[-len(WORDS) :] = lengths * weight[-len(WORDS) :] - apart
        weight[-2 * len(WORDS) : -len(WORDS)] += apart
    found = word_retrieval(model, cloned, CLONES[:12], CLONES[12:], 0, seed=0)
    assert found.p1 > 0.9 and found.layer == 0


def test_a_lexicon_of_nothing_but_identical_spellings(cloned):
    alike = [Pair(word, word) for word in WORDS]
    assert word_retrieval(model_for(cloned, True), cloned, alike[:12], alike[12:], 0, seed=0) is None


def test_no_training_words(cloned):
    assert word_retrieval(model_for(cloned, True), cloned, [], CLONES[12:], 0, seed=0) is None
