"""A ready grown tokenizer instead of a learned one."""

import json
from pathlib import Path

import pytest

from prealign_cpt.model.tokens import encode_text
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError
from prealign_cpt.vocab.build import build_vocab
from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer, take_tokenizer
from tests.conftest import ENGLISH, TARGET, with_texts
from tests.vocab.conftest import byte_level


@pytest.fixture
def given(tmp_path: Path, base_folder: Path) -> tuple[Path, int]:
    growth = grow_tokenizer(base_folder, TARGET * 4, ENGLISH, 12, tmp_path / "given")
    return tmp_path / "given", len(growth.tokens)


def test_it_is_taken_as_it_is(base_folder: Path, given: tuple[Path, int], tmp_path: Path):
    folder, size = given
    growth = take_tokenizer(base_folder, folder, size, tmp_path / "out")
    taken, ready = load_tokenizer(tmp_path / "out"), load_tokenizer(folder)
    assert taken.get_vocab() == ready.get_vocab() and encode_text(taken, TARGET[0]) == encode_text(ready, TARGET[0])
    assert [piece.id for piece in growth.tokens] == list(range(growth.first_id, growth.first_id + size))
    assert growth.first_id == len(load_tokenizer(base_folder))


def test_what_does_not_belong_to_the_base_is_refused(base_folder: Path, given: tuple[Path, int], tmp_path: Path):
    folder, size = given
    with pytest.raises(RecipeError, match=rf"adds {size} tokens, vocab.size is 5; set vocab.size = {size}"):
        take_tokenizer(base_folder, folder, 5, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"token .* has id .* in the base"):
        take_tokenizer(base_folder, byte_level(tmp_path / "other", llama3=False), size, tmp_path / "out")
    with pytest.raises(MissingInputError, match="absent"):
        take_tokenizer(base_folder, tmp_path / "absent", size, tmp_path / "out")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] += 3
    path.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match="do not run on"):
        take_tokenizer(base_folder, folder, size, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_stage_takes_it_unless_the_size_is_zero(recipe_file: Path, base_folder: Path, given: tuple[Path, int]):
    folder, size = given
    for wanted in (size, 0):
        out = recipe_file.parent / f"vocab{wanted}"
        out.mkdir()
        recipe = with_texts(load_recipe(recipe_file, ["--vocab.tokenizer", str(folder), "--vocab.size", str(wanted)]))
        build_vocab(recipe, base_folder, out)
        assert json.loads((out / "report.json").read_text())["new_tokens"] == wanted
