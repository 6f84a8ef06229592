"""Static rows against a loop over tokens."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from prealign_cpt.align.rows import static_rows
from prealign_cpt.lexicon.pairs import Pair
from tests.vocab.conftest import sentence_piece

TEXTS = [" Haus", "haus", " haus", " aufgeben", "ß", " Königin", ""]
PAIRS = [
    Pair("house", "Haus"),
    Pair("building", "Haus"),
    Pair("give up", "aufgeben"),
    Pair("queen", "Königin der Nacht"),
    Pair("river", "Fluss"),
]


@pytest.fixture
def tables(tokenizer) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(len(tokenizer), 6) + 1, torch.randn(len(tokenizer), 6) - 1


def mean_row(tokenizer, text: str, table: Tensor) -> Tensor:
    """One row, the slow way."""
    return torch.stack([table[i] for i in tokenizer.encode(text, add_special_tokens=False)]).mean(dim=0)


def test_subword_means(tokenizer, tables):
    rows = static_rows("subword", TEXTS, tokenizer, PAIRS, *tables, 0.3, 1.0)
    for text, own, head, kind in zip(TEXTS, rows.input_MD, rows.output_MD, rows.provenance, strict=True):
        if text:
            torch.testing.assert_close(own, mean_row(tokenizer, text, tables[0]))
            torch.testing.assert_close(head, mean_row(tokenizer, text, tables[1]))
            assert kind == "subword"
        else:
            torch.testing.assert_close(own, tables[0].mean(dim=0))
            assert kind == "fallback"


def test_lexicon_mix(tokenizer, tables):
    table = tables[0]
    rows = static_rows("subword+lexicon", TEXTS, tokenizer, PAIRS, table, None, 0.3, 1.0)
    kinds = ["lexicon", "subword", "lexicon", "lexicon", "subword", "subword", "fallback"]
    assert rows.provenance == kinds, "whole words after a space only; `Königin` is no entry by itself"
    both = (mean_row(tokenizer, " house", table) + mean_row(tokenizer, " building", table)) / 2
    for i in (0, 2):  # the lower-case form counts as the word, too
        torch.testing.assert_close(rows.input_MD[i], 0.7 * mean_row(tokenizer, TEXTS[i], table) + 0.3 * both)
    two_words = mean_row(tokenizer, " give up", table)
    torch.testing.assert_close(rows.input_MD[3], 0.7 * mean_row(tokenizer, " aufgeben", table) + 0.3 * two_words)
    torch.testing.assert_close(rows.input_MD[1], mean_row(tokenizer, "haus", table))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_of_the_lexicon_weight(tokenizer, tables, weight: float):
    rows = static_rows("subword+lexicon", [" Fluss"], tokenizer, PAIRS, *tables, weight, 1.0)
    expected = mean_row(tokenizer, " river" if weight else " Fluss", tables[0])
    torch.testing.assert_close(rows.input_MD[0], expected)


@pytest.mark.parametrize("shrink", [0.0, 0.25, 1.0])
def test_shrink_pulls_output_rows_to_the_mean(tokenizer, tables, shrink: float):
    whole = static_rows("subword", TEXTS, tokenizer, PAIRS, *tables, 0.3, 1.0)
    rows = static_rows("subword", TEXTS, tokenizer, PAIRS, *tables, 0.3, shrink)
    mean = tables[1].mean(dim=0)
    torch.testing.assert_close(rows.input_MD, whole.input_MD)
    torch.testing.assert_close(rows.output_MD, mean + shrink * (whole.output_MD - mean))
    tied = static_rows("subword", TEXTS, tokenizer, PAIRS, tables[0], None, 0.3, shrink)
    mean = tables[0].mean(dim=0)
    assert tied.input_MD is tied.output_MD
    torch.testing.assert_close(tied.input_MD, mean + shrink * (whole.input_MD - mean))


def test_mean_rows(tokenizer, tables):
    rows = static_rows("mean", TEXTS, tokenizer, PAIRS, *tables, 0.3, 0.5)
    assert rows.provenance == ["mean"] * len(TEXTS)
    torch.testing.assert_close(rows.input_MD, tables[0].mean(dim=0).expand(len(TEXTS), -1))
    torch.testing.assert_close(rows.output_MD, tables[1].mean(dim=0).expand(len(TEXTS), -1))


def test_no_new_tokens(tokenizer, tables):
    for init in ("mean", "subword", "subword+lexicon"):
        rows = static_rows(init, [], tokenizer, PAIRS, *tables, 0.3, 0.5)
        assert rows.input_MD.shape == rows.output_MD.shape == (0, 6) and rows.provenance == []


def test_text_like_a_special_token_is_text(tokenizer, tables):
    rows = static_rows("subword", ["<|endoftext|>"], tokenizer, [], *tables, 0.3, 1.0)
    assert not torch.equal(rows.input_MD[0], tables[0][0])


def test_sentencepiece_words(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(sentence_piece(tmp_path / "spm"))
    table = torch.randn(len(tokenizer), 6)
    rows = static_rows("subword+lexicon", [" Haus"], tokenizer, PAIRS, table, None, 1.0, 1.0)
    assert rows.provenance == ["lexicon"]
