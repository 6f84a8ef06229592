"""Input rows composed by the base: a base whose rows follow from their pieces is found out."""

import random

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign_cpt.align import composed
from prealign_cpt.align.composed import composed_input_rows, known_tokens
from tests.conftest import START, make_model
from tests.vocab.conftest import sentence_piece

LETTERS = "abcdefghijklmnop"


@pytest.fixture(scope="module")
def base() -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM, Tensor]:
    """Tokens of one to four letters, whose rows are half the first letter's, half the last one's: by the first piece's
    first half and the last piece's second half, however they are taken apart."""
    draw = random.Random(0)
    vocab, merges = {START: 0} | {letter: i for i, letter in enumerate(LETTERS, 1)}, []
    for left, right in [(a, b) for a in LETTERS for b in LETTERS]:
        vocab[left + right] = len(vocab)
        merges.append((left, right))
    for size in (3, 4):
        longer = {"".join(draw.choices(LETTERS, k=size)) for _ in range(450)}
        for token in sorted(longer):
            halves = (token[:-1], token[-1]) if token[:-1] in vocab else (token[:2], token[2:])
            if halves[0] in vocab and halves[1] in vocab:
                vocab[token] = len(vocab)
                merges.append(halves)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab, merges)), bos_token=START)
    model = make_model(len(vocab))
    table = model.get_input_embeddings().weight.detach()
    own = torch.randn(len(LETTERS) + 1, 32, generator=torch.Generator().manual_seed(3))
    own = own / 5
    for token, i in list(vocab.items())[1:]:
        table[i] = torch.cat([own[vocab[token[0]]][:16], own[vocab[token[-1]]][16:]])
    return tokenizer, model, table.clone()


def test_a_base_whose_rows_follow_from_their_pieces(base, monkeypatch: pytest.MonkeyPatch):
    tokenizer, model, table = base
    draw = random.Random(5)
    pieces = [draw.choices(range(1, len(tokenizer)), k=draw.choice([2, 3])) for _ in range(200)] + [[]]
    rows, facts = composed_input_rows(model, tokenizer, pieces, table, 0)
    true = torch.stack([torch.cat([table[p[0]][:16], table[p[-1]][16:]]) for p in pieces[:-1]])
    means = torch.stack([table[p].mean(dim=0) for p in pieces[:-1]])
    error = (means - true).square().mean()
    assert (rows[:-1] - true).square().mean() < 0.3 * error, "that strong a ridge is for little that is true"
    torch.testing.assert_close(rows[-1], table.mean(dim=0))
    known, ids = known_tokens(tokenizer)
    assert facts == {"known_tokens": len(ids), "tokens_forward": sum(len(p) + 1 for p in known + pieces[:-1])}
    again, _ = composed_input_rows(model, tokenizer, pieces, table, 0)
    assert torch.equal(rows, again)
    monkeypatch.setattr(composed, "RIDGE", 1e-3)
    rows, _ = composed_input_rows(model, tokenizer, pieces, table, 0)
    assert (rows[:-1] - true).square().mean() < 1e-3 * error


def test_the_dual_form_is_ridge_regression(base, monkeypatch: pytest.MonkeyPatch):
    tokenizer, model, table = base
    monkeypatch.setattr(composed, "KNOWN", 520)
    pieces = [[20, 30], [40, 50, 60]]
    rows, _ = composed_input_rows(model, tokenizer, pieces, table, 0)
    known, ids = known_tokens(tokenizer)
    x, new = (torch.cat(list(composed._features(model, p, table, 0)), dim=1).double() for p in (known, pieces))
    assert x.shape == (520, (2 + 3) * 32), "two layers, and three rows"
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    x, new = (x - mean) / std, (new - mean) / std
    y, centre = table[ids].double(), table[ids].double().mean(dim=0)
    weights = torch.linalg.solve(x.T @ x + 30000 * 160 / 8064 * torch.eye(160), x.T @ (y - centre))
    torch.testing.assert_close(rows.double(), new @ weights + centre, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_states_are_those_of_the_last_piece(base):
    _, model, table = base
    pieces = [[20, 30], [40, 50, 60], [7]]
    first, last_layer, *rows = composed._features(model, pieces, table, 0)
    for i, ids in enumerate(pieces):
        hidden = model.model(torch.tensor([[0, *ids]]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(first[i], hidden[1][0, -1])
        torch.testing.assert_close(last_layer[i], hidden[2][0, -1])
        for found, expected in zip(rows, (table[ids[0]], table[ids[-1]], table[ids].mean(dim=0)), strict=True):
            torch.testing.assert_close(found[i], expected)


def test_parts_spell_their_token(base, tmp_path):
    for tokenizer in (base[0], AutoTokenizer.from_pretrained(sentence_piece(tmp_path / "spm"))):
        known, ids = known_tokens(tokenizer)
        strings = tokenizer.convert_ids_to_tokens(ids.tolist())
        assert len(ids) > 20 and ["".join(tokenizer.convert_ids_to_tokens(parts)) for parts in known] == strings
        assert len({len(parts) for parts in known}) > 1 and min(map(len, known)) == 2
        assert all(len(text.removeprefix("\u2581")) >= 3 and text.removeprefix("\u2581").isalpha() for text in strings)


def test_a_base_with_few_words_is_told(tokenizer, capsys: pytest.CaptureFixture[str]):
    model = make_model(len(tokenizer))
    rows, facts = composed_input_rows(model, tokenizer, [[5, 6]], model.get_input_embeddings().weight.detach(), 0)
    assert rows is None and facts == {"known_tokens": 0, "tokens_forward": 0}
    assert "too few to compose rows; input rows are means" in capsys.readouterr().out
