"""Static rows: means against a loop over tokens, and rows from a file, which fit or are refused by name and number."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from prealign_cpt.align.rows import StaticRows, old_tables, static_rows, write_rows
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError
from prealign_cpt.vocab.grow import grow_tokenizer
from tests.conftest import make_model, make_tokenizer
from tests.vocab.conftest import TARGET, byte_level

TEXTS = [" Haus", "haus", " haus", " aufgeben", "ß", " Königin", " house", ""]
PAIRS = [Pair("house", "Haus"), Pair("building", "Haus"), Pair("give up", "aufgeben"), Pair("river", "Fluss")]
INITS = ["mean", "subword", "lexicon", "subword+lexicon"]


@pytest.fixture
def tables(tokenizer) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(len(tokenizer), 6) + 1, torch.randn(len(tokenizer), 6) - 1


def rows_of(init: str, tokenizer, tables: tuple[Tensor, Tensor | None], **keys: object) -> StaticRows:
    align = Align(init=init, steps=0, **{"lexicon_weight": 0.3, **keys})
    return static_rows(align, TEXTS, tokenizer, tokenizer, PAIRS, *tables)


def mean_row(tokenizer, text: str, table: Tensor) -> Tensor:
    """One row, the slow way."""
    return torch.stack([table[i] for i in tokenizer.encode(text, add_special_tokens=False)]).mean(dim=0)


def test_subword_means(tokenizer, tables):
    rows = rows_of("subword", tokenizer, tables)
    for text, own, head, kind in zip(TEXTS, rows.input_MD, rows.output_MD, rows.provenance, strict=True):
        if text:
            torch.testing.assert_close(own, mean_row(tokenizer, text, tables[0]))
            torch.testing.assert_close(head, mean_row(tokenizer, text, tables[1]))
            assert kind == ("copied" if text == " house" else "subword")
        else:
            torch.testing.assert_close(own, tables[0].mean(dim=0))
            assert kind == "fallback"


def test_the_lexicon_falls_back_to_subwords(tokenizer, tables):
    alone, mixed, subword = (rows_of(init, tokenizer, tables) for init in ("lexicon", "subword+lexicon", "subword"))
    kinds = ["lexicon", "subword", "lexicon", "lexicon", "subword", "subword", "copied", "fallback"]
    assert alone.provenance == mixed.provenance == kinds, "whole words after a space only"
    house = (mean_row(tokenizer, " house", tables[0]) + mean_row(tokenizer, " building", tables[0])) / 2
    torch.testing.assert_close(alone.input_MD[[0, 2]], house.expand(2, -1))
    torch.testing.assert_close(alone.output_MD[3], mean_row(tokenizer, " give up", tables[1]))
    for m, kind in enumerate(kinds):
        for table in ("input_MD", "output_MD"):
            lexicon, both, pieces = (getattr(rows, table)[m] for rows in (alone, mixed, subword))
            torch.testing.assert_close(both, 0.3 * lexicon + 0.7 * pieces)
            assert torch.allclose(lexicon, pieces, atol=1e-6) == (kind != "lexicon")


def test_a_lexicon_that_lists_no_new_token(tokenizer, tables):
    def run(init: str) -> StaticRows:
        return static_rows(Align(init=init, steps=0), ["haus", " Tor"], tokenizer, tokenizer, PAIRS, *tables)

    with pytest.raises(DataError, match="none of the 2 new tokens is a word that it lists"):
        run("lexicon")
    assert torch.equal(run("subword+lexicon").input_MD, run("subword").input_MD)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_of_the_lexicon_weight(tokenizer, tables, weight: float):
    mixed = rows_of("subword+lexicon", tokenizer, tables, lexicon_weight=weight)
    expected = rows_of("lexicon" if weight else "subword", tokenizer, tables)
    torch.testing.assert_close(mixed.input_MD, expected.input_MD)
    assert mixed.provenance == expected.provenance


@pytest.mark.parametrize("init", ["pieces", *INITS])
def test_the_head_has_its_own_rows(tokenizer, tables, init: str):
    """Changing one table leaves the other's new rows alone."""
    rows, other = rows_of(init, tokenizer, tables), rows_of(init, tokenizer, (tables[0], tables[1] * 2))
    assert torch.equal(rows.input_MD, other.input_MD)
    torch.testing.assert_close(rows.output_MD * 2, other.output_MD)


def test_a_head_of_first_pieces(tokenizer, tables):
    rows = rows_of("pieces", tokenizer, tables)
    assert rows.provenance == ["pieces"] * 7 + ["fallback"]
    torch.testing.assert_close(rows.input_MD, rows_of("subword", tokenizer, tables).input_MD)
    for text, head in zip(TEXTS[:-1], rows.output_MD, strict=False):
        first = tables[1][tokenizer.encode(text, add_special_tokens=False)[0]]
        torch.testing.assert_close(head, 0.75 * first + 0.25 * mean_row(tokenizer, text, tables[1]))


def test_mean_rows(tokenizer, tables):
    rows = rows_of("mean", tokenizer, tables)
    assert rows.provenance == ["mean"] * len(TEXTS)
    torch.testing.assert_close(rows.input_MD, tables[0].mean(dim=0).expand(len(TEXTS), -1))
    torch.testing.assert_close(rows.output_MD, tables[1].mean(dim=0).expand(len(TEXTS), -1))


@pytest.mark.parametrize("init", ["pieces", *INITS, "file"])
def test_no_new_tokens(tokenizer, tables, init: str):
    rows = static_rows(Align(init=init, steps=0), [], tokenizer, tokenizer, [], *tables)
    assert rows.input_MD.shape == rows.output_MD.shape == (0, 6) and rows.provenance == []


def test_text_like_a_special_token_is_text(tokenizer, tables):
    align = Align(init="subword", steps=0)
    rows = static_rows(align, ["<|endoftext|>"], tokenizer, tokenizer, [], *tables)
    assert rows.provenance == ["subword"] and not torch.equal(rows.input_MD[0], tables[0][0])


def test_parts_of_characters(tmp_path: Path):
    """Tokens that are no whole character are spelled in the bytes they are made of."""
    base_folder = byte_level(tmp_path / "base", llama3=False)
    (tmp_path / "grown").mkdir()
    grow_tokenizer(base_folder, TARGET["hindi"] * 3, [], 12, tmp_path / "grown")
    base, grown = AutoTokenizer.from_pretrained(base_folder), AutoTokenizer.from_pretrained(tmp_path / "grown")
    texts = token_texts(grown)[len(base) :]
    table = torch.randn(len(base), 6)
    rows = static_rows(Align(init="subword", steps=0), texts, base, grown, [], table, None)
    parts = [m for m, text in enumerate(texts) if "\ufffd" in text]
    assert parts and set(rows.provenance) == {"subword"}
    for m in parts:
        letters = grown.convert_ids_to_tokens(len(base) + m)
        expected = table[torch.tensor(base.convert_tokens_to_ids(list(letters)))].mean(dim=0)
        torch.testing.assert_close(rows.input_MD[m], expected)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_come_to_stand_in_the_model(tied: bool):
    tokenizer = make_tokenizer(["a b c"], 280)
    num_old, num_new = len(tokenizer) - 5, 5
    model = make_model(len(tokenizer), tied=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, outputs = old_tables(model, num_old)
    assert (outputs is None) == tied and inputs.shape == (num_old, 32)
    own = torch.randn(num_new, 32)
    head = own if tied else torch.randn(num_new, 32)
    write_rows(model, num_old, StaticRows(own, head, ["file"] * num_new))
    assert torch.equal(model.get_input_embeddings().weight[num_old:], own)
    assert torch.equal(model.get_output_embeddings().weight[num_old:], head)
    for name, value in model.state_dict().items():
        old = slice(num_old) if "embed_tokens" in name or "lm_head" in name else slice(None)
        assert torch.equal(value[old], before[name][old]), name


NAN = torch.full((2, 6), 1.0).index_fill(0, torch.tensor([1]), float("nan"))


def from_file(tokenizer, path: Path, tied: bool = True) -> StaticRows:
    align = Align(init="file", rows="rows.safetensors", steps=0)
    table = torch.randn(len(tokenizer), 6)
    head = None if tied else torch.randn(len(tokenizer), 6)
    return static_rows(align, [" a", " b"], tokenizer, tokenizer, [], table, head, rows_file=path)


def test_rows_are_taken_as_they_are(tokenizer, tmp_path: Path):
    own, head = torch.randn(2, 6), torch.randn(2, 6, dtype=torch.bfloat16)
    save_file({"input": own, "output": head}, tmp_path / "both")
    rows = from_file(tokenizer, tmp_path / "both", tied=False)
    assert torch.equal(rows.input_MD, own) and torch.equal(rows.output_MD, head.float())
    assert rows.provenance == ["file", "file"] and rows.output_MD.dtype == torch.float32
    save_file({"input": own}, tmp_path / "one")
    rows = from_file(tokenizer, tmp_path / "one")
    assert torch.equal(rows.input_MD, own) and rows.output_MD is rows.input_MD


@pytest.mark.parametrize(
    ("tied", "tensors", "message"),
    [
        (True, {"input": torch.zeros(3, 6)}, r"input is \[3, 6\], expected \[2, 6\]"),
        (True, {"input": torch.zeros(2, 5)}, r"input is \[2, 5\], expected \[2, 6\]"),
        (True, {"input": torch.zeros(12)}, r"input is \[12\], expected \[2, 6\]"),
        (True, {"input": torch.zeros(2, 6, dtype=torch.int64)}, "input is torch.int64, expected floating point"),
        (True, {"input": NAN}, r"input is not finite in 1 rows, the first \[1\]"),
        (True, {"embed": torch.zeros(2, 6)}, "holds embed; expected input, since the head is tied"),
        (True, {"input": torch.zeros(2, 6), "output": torch.zeros(2, 6)}, "holds input, output; expected input,"),
        (False, {"input": torch.zeros(2, 6)}, "holds input; expected input and output, .* not tied"),
        (False, {"input": torch.zeros(2, 6), "output": NAN * float("inf")}, "output is not finite in 2 rows"),
    ],
)
def test_files_that_do_not_fit(tokenizer, tmp_path: Path, tied: bool, tensors: dict[str, Tensor], message: str):
    path = tmp_path / "rows.safetensors"
    save_file(tensors, path)
    with pytest.raises(DataError, match=rf"{path}: {message}"):
        from_file(tokenizer, path, tied)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, MissingInputError, "no such file"),
        (b"", DataError, "not a readable safetensors file"),
        (b"\x80\x04not safetensors at all", DataError, "not a readable safetensors file"),
    ],
)
def test_no_file_or_another_one(tokenizer, tmp_path: Path, content: bytes | None, kind: type[PrealignError], message):
    path = tmp_path / "rows.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=message):
        from_file(tokenizer, path)
