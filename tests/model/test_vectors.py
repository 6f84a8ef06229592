"""Words without context: padding, order and the start token."""

from pathlib import Path

import torch
from transformers import AutoTokenizer

from prealign_cpt.model.vectors import chunks, encode_words, pad_words, vectors_of, word_vectors
from tests.conftest import ENGLISH, make_model
from tests.vocab.conftest import sentence_piece

WORDS = ["house", "a", "beautiful", "daughter", "Gebäude", "the river"]


def test_words_stand_after_a_space(tokenizer):
    encoded = encode_words(tokenizer, WORDS)
    assert [tokenizer.decode(ids) for ids in encoded] == [" " + word for word in WORDS]
    assert encode_words(tokenizer, []) == []


def test_sentencepiece_puts_the_space_itself(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(sentence_piece(tmp_path / "spm"))
    for word, ids in zip(WORDS, encode_words(tokenizer, WORDS), strict=True):
        pieces = tokenizer.convert_ids_to_tokens(ids)
        assert pieces[0].startswith("▁") and not "".join(pieces).startswith("▁▁"), word


def test_pad_words():
    ids, mask = pad_words([[5, 6], [7]], 1)
    assert ids.tolist() == [[1, 5, 6], [1, 7, 1]]
    assert mask.tolist() == [[False, True, True], [False, True, False]]


def test_padding_cannot_matter(tokenizer):
    model = make_model(len(tokenizer))
    encoded = encode_words(tokenizer, WORDS)
    ids, mask = pad_words(encoded, 0)
    short = word_vectors(model, model.get_input_embeddings()(ids), mask)
    ids, mask = pad_words([*encoded, list(range(1, 40))], 0)
    ids[:-1][~mask[:-1]] = torch.where(torch.arange(ids.shape[1]) > 0, 17, 0).expand(len(WORDS), -1)[~mask[:-1]]
    long = word_vectors(model, model.get_input_embeddings()(ids), mask)[:, :-1]
    assert short.shape == (3, len(WORDS), 32) and short.dtype == torch.float32
    torch.testing.assert_close(short, long, atol=1e-6, rtol=0)


def test_the_mean_is_over_the_words_own_tokens(tokenizer):
    model = make_model(len(tokenizer))
    encoded = encode_words(tokenizer, WORDS)
    found = vectors_of(model, encoded, start_id=0, batch_tokens=8)  # groups of one or two, shortest first
    for w, ids in enumerate(encoded):
        hidden = model(torch.tensor([[0, *ids]]), output_hidden_states=True).hidden_states
        expected = torch.stack([h[0, 1:].mean(dim=0) for h in hidden])
        torch.testing.assert_close(found[:, w], expected, atol=1e-6, rtol=1e-5)


def test_chunks_hold_every_word_once_within_the_budget(tokenizer):
    encoded = encode_words(tokenizer, sorted({word for text in ENGLISH for word in text.split()}))
    groups = list(chunks(encoded, 32))
    assert sorted(i for group in groups for i in group) == list(range(len(encoded)))
    assert all(len(group) * (1 + max(len(encoded[i]) for i in group)) <= 32 for group in groups)
    assert list(chunks([[1] * 50, [2]], 8)) == [[1], [0]], "a word above the budget stands alone"
