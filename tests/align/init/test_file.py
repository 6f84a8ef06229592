"""Rows from a file: what fits is taken as it is, what does not is refused by name and number."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prealign_cpt.align.init import static_rows
from prealign_cpt.recipe.schema import Align
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError

ALIGN = Align(init="file", rows="rows.safetensors", steps=0)
NAN = torch.full((2, 6), 1.0).index_fill(0, torch.tensor([1]), float("nan"))


def from_file(tokenizer, path: Path, tied: bool = True, align: Align = ALIGN):
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
        (True, {"embed": torch.zeros(2, 6)}, "holds embed; expected input, since the head of the base model is tied"),
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
