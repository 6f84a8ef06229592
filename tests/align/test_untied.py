"""A tied base gets a head of its own, and keeps it until the export."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prealign_cpt.align.build import build_align
from prealign_cpt.align.initialize import build_init
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.load import load_whole, untie_head
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.vocab.grow import grow_tokenizer
from tests.align.conftest import ALONE
from tests.conftest import ENGLISH, PAIRS, TARGET, make_model, with_texts
from tests.export.conftest import export, trained

NUM_NEW = 12


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with process_group(torch.device("cpu"), timeout_minutes=1) as world:
        yield world


@pytest.fixture
def vocab(base_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "vocab").mkdir()
    assert len(grow_tokenizer(base_folder, TARGET * 4, ENGLISH, NUM_NEW, tmp_path / "vocab").tokens) == NUM_NEW
    return tmp_path / "vocab"


def aligned(recipe_file: Path, base: Path, vocab: Path, *flags: str) -> Path:
    """init and align, made beside the recipe."""
    folders = init, align = [recipe_file.parent / name for name in ("init", "align")]
    for folder in folders:
        folder.mkdir()
    recipe = with_texts(load_recipe(recipe_file, list(flags)))
    pairs = [Pair(*pair) for pair in PAIRS]
    build_init(recipe, base, vocab, pairs, init, torch.device("cpu"))
    build_align(recipe, init, pairs, align, ALONE)
    return align


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_from_a_tied_base_to_an_export(
    recipe_file: Path,
    base_folder: Path,
    vocab: Path,
    world: World,
    precision: str,
    capsys: pytest.CaptureFixture[str],
):
    align = aligned(recipe_file, base_folder, vocab, "--train.precision", precision, "--align.target_tokens", "128")
    old = load_whole(base_folder).get_input_embeddings().weight
    parameters = (len(old) + NUM_NEW) * 32
    assert f"the head is untied, each new token has two rows; {parameters:,} more parameters" in capsys.readouterr().out
    for folder in (align.parent / "init", align):
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
        model = load_whole(folder)
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert table is not head and len(table) == len(head) == len(old) + NUM_NEW
        assert torch.equal(table[: len(old)], old) and torch.equal(head[: len(old)], old)
        assert not (table[len(old) :] == head[len(old) :]).all(dim=1).any()
    report = json.loads((align / "report.json").read_text())
    assert report["rows"] == {"pieces": NUM_NEW}
    recipe = load_recipe(recipe_file, ["--train.precision", precision])
    exported = export(recipe, align, *trained(recipe, align, world, precision))
    assert json.loads((exported / "config.json").read_text())["tie_word_embeddings"] is False
    ids = torch.tensor([[0, 5, 6, len(old) + 1, len(old) + 2]])
    module = load_whole(exported)
    logits = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)(ids).logits
    expected = module.base_model(ids).last_hidden_state @ module.lm_head.weight.T
    torch.testing.assert_close(logits, expected)
    assert not torch.equal(module.lm_head.weight, module.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("init", "untie", "tied"), [("subword", "auto", True), ("subword", "yes", False), ("pieces", "yes", False)]
)
def test_what_the_key_says(recipe_file: Path, base_folder: Path, vocab: Path, init: str, untie: str, tied: bool):
    flags = ("--align.init", init, "--align.untie", untie, "--align.steps", "0")
    model = load_whole(aligned(recipe_file, base_folder, vocab, *flags))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied


def test_without_new_tokens_nothing_is_untied(recipe_file: Path, base_folder: Path):
    model = load_whole(aligned(recipe_file, base_folder, base_folder, "--align.steps", "0"))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_two_rows_need_two_tables(recipe_file: Path, base_folder: Path, vocab: Path):
    with pytest.raises(RecipeError, match=r'align\.untie: init "pieces" makes two rows.*"auto"'):
        aligned(recipe_file, base_folder, vocab, "--align.untie", "no")


def test_a_head_that_is_not_tied_stays():
    model = make_model(50, tied=False)
    before = model.get_output_embeddings().weight
    assert untie_head(model) == 0 and model.get_output_embeddings().weight is before
