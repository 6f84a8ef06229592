"""Neighbours of the new rows."""

from pathlib import Path

import pytest
import torch

from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.rows import Rows, read_rows
from prealign_cpt.run.errors import DataError

from .conftest import ROWS, add_model, write

FILES = ("export/model.safetensors", "export/tokenizer.json", "vocab/new_tokens.tsv")


@pytest.fixture
def run(run: Path) -> Path:
    return add_model(run)


def test_a_new_row_is_nearest_to_the_english_row_that_it_copies(run: Path) -> None:
    rows = read_rows(run)
    assert isinstance(rows, Rows)
    assert rows.counts == (4, 2), "neither <s> nor the token of two letters is an English word"
    (haus,) = rows.listed
    assert (haus.text, haus.row, haus.meaning) == ("Haus", "lexicon", "house")
    assert haus.neighbours[0] == ("house", pytest.approx(1.0))
    assert len(haus.neighbours) == len(haus.before) == len(ROWS)
    assert haus.before[0] == ("king", pytest.approx(1.0)), "the row before training"
    own = torch.tensor(list(ROWS.values()))
    own = torch.nn.functional.normalize(own - own.mean(0), dim=1)
    cosines = own @ own.T - 2 * torch.eye(4)
    assert rows.nearest[0] == pytest.approx(float(cosines.amax(1).mean()), abs=1e-6), "the token itself left out"
    (run / "align/model.safetensors").unlink()
    rows = read_rows(run)
    assert isinstance(rows, Rows) and rows.listed[0].before == []


@pytest.mark.parametrize("part", FILES)
def test_what_is_not_there_is_said(run: Path, part: str) -> None:
    (run / "align/model.safetensors").unlink()
    (run / part).unlink()
    assert isinstance(read_rows(run), Absent)


def test_rows_of_another_name_or_number_are_not_guessed(run: Path) -> None:
    write(run / "vocab/new_tokens.tsv", "id\ttext\n99\t' Haus'\n")
    assert read_rows(run) == Absent("export: has no rows for the tokens of vocab/new_tokens.tsv")
    assert isinstance(read_rows(add_model(run, embedding="model.layers.0.weight")), Absent)


@pytest.mark.parametrize("part", [*FILES, "align/rows.tsv"])
def test_damaged_files_are_named(run: Path, part: str) -> None:
    write(run / part, "heading\nx{\t'\n")
    with pytest.raises(DataError, match=Path(part).name):
        read_rows(run)
