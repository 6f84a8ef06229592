"""Both halves of the alignment, from a base folder to an aligned folder, its gates, and two ranks together."""

import inspect
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign_cpt.align import build, initialize
from prealign_cpt.align.build import build_align
from prealign_cpt.align.initialize import build_init
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.model.world import World, process_group
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import NumericError
from prealign_cpt.vocab.grow import grow_tokenizer
from tests.conftest import ENGLISH, PAIRS, TARGET, make_model, make_tokenizer, recipe_file, run_ranks, with_texts

LEXICON = [Pair(*pair) for pair in PAIRS]
NUM_NEW = 12
ALONE = World(0, 1, torch.device("cpu"), dist.HashStore())


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocab")
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.add_tokens([f" {target}" for _, target in PAIRS[:NUM_NEW]])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def align(recipe_file: Path, base_folder: Path, vocab: Path, tmp_path: Path):
    """Run the stage on the tiny recipe with some flags."""

    def run(*flags: str, base: Path = base_folder, vocab: Path = vocab) -> Path:
        init, out = tmp_path / "init", tmp_path / "out"
        init.mkdir()
        out.mkdir()
        recipe = with_texts(load_recipe(recipe_file, list(flags)))
        build_init(recipe, base, vocab, LEXICON, init, torch.device("cpu"))
        build_align(recipe, init, LEXICON, out, ALONE)
        return out

    return run


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def test_the_whole_stage(align: Any, base_folder: Path):
    out = align("--align.init", "subword+lexicon", "--align.target_tokens", "128")
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    num_old = base.config.vocab_size
    assert model.config.vocab_size == len(tokenizer) == num_old + NUM_NEW
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    old = base.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value[: len(old[name])], old[name]), name
    found = report(out)
    assert found["new_tokens"] == NUM_NEW and found["rows"] == {"lexicon": NUM_NEW}
    assert found["english_gate"].keys() == {"before", "after", "limit"}
    assert found["calibration"]["tokens_forward"] > 0
    assert len(found["contrast"]) == 3 and found["contrast_stage"]["target_tokens"] == 3 * 128
    rows = (out / "rows.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "id\ttext\trow" and rows[1] == f"{num_old}\t' Haus'\tlexicon" and len(rows) == NUM_NEW + 1


def test_plain_rows_are_taken_as_they_are(align: Any, tmp_path: Path):
    out = align("--align.init", "mean", "--align.calibrate", "0", "--align.steps", "0")
    found = report(out)
    assert found["rows"] == {"mean": NUM_NEW} and found["contrast"] == [] and found["contrast_stage"] == {"steps": 0}
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "init" / "model.safetensors").read_bytes()
    assert not {"base_tokenizer", "pieces.json"} & {path.name for path in out.iterdir()}
    table = AutoModelForCausalLM.from_pretrained(out).get_input_embeddings().weight
    torch.testing.assert_close(table[-NUM_NEW:], table[:-NUM_NEW].mean(dim=0).expand(NUM_NEW, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_old_values_are_the_base_s_own_whatever_the_precision(
    align: Any, base_folder: Path, tmp_path: Path, dtype: torch.dtype
):
    """bf16 would round nearly every value of a base in fp16; one in bf16 stays as small as it was."""
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype)
    base.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(tmp_path / "half")
    out = align("--train.precision", "bf16", base=tmp_path / "half")
    found = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
    for name, value in base.state_dict().items():
        assert torch.equal(found[name][: len(value)].float(), value.float()), name
        assert found[name].dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    rows = found["model.embed_tokens.weight"][-NUM_NEW:]
    assert rows.isfinite().all() and rows.float().std() > 0.01


def test_ids_with_holes(align: Any, tmp_path: Path):
    """New rows stand at the new tokens' ids, which are not the count of tokens."""
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    far = {"id": len(tokenizer) + 5, "content": "<|far|>", "special": True, "normalized": False}
    content["added_tokens"].append(far | dict.fromkeys(["single_word", "lstrip", "rstrip"], False))
    content["model"]["vocab"]["<|far|>"] = len(tokenizer) + 5
    path.write_text(json.dumps(content), encoding="utf-8")
    num_old = len(tokenizer) + 6
    base = make_model(num_old)
    base.save_pretrained(tmp_path / "base")
    growth = grow_tokenizer(tmp_path / "base", TARGET * 4, ENGLISH, NUM_NEW, tmp_path / "grown")
    assert growth.first_id == num_old == num_ids(AutoTokenizer.from_pretrained(tmp_path / "base"))
    plain = ["--align.init", "subword", "--align.calibrate", "0", "--align.steps", "0"]
    out = align(*plain, "--align.max_english_increase", "9", base=tmp_path / "base", vocab=tmp_path / "grown")
    table = AutoModelForCausalLM.from_pretrained(out).get_input_embeddings().weight
    assert len(table) == num_old + NUM_NEW == num_ids(AutoTokenizer.from_pretrained(out))
    old = base.get_input_embeddings().weight
    assert torch.equal(table[:num_old], old)
    for token in growth.tokens:
        pieces = tokenizer(token.text).input_ids
        torch.testing.assert_close(table[token.id], old[pieces].mean(dim=0))


@pytest.mark.parametrize(
    ("after", "message"), [(2.5, r"2\.0 to 2\.5.*max_english_increase \(0\.4\)"), (float("nan"), "nan")]
)
def test_the_english_gate(align: Any, monkeypatch: pytest.MonkeyPatch, after: float, message: str):
    monkeypatch.setattr(initialize, "english_bits", lambda *a: 2.0)
    monkeypatch.setattr(build, "english_bits", lambda *a: after)
    with pytest.raises(NumericError, match=message) as caught:
        align("--align.max_english_increase", "0.4", "--align.steps", "0")
    assert caught.value.exit_code == 79


@pytest.mark.parametrize(("name", "row"), [("model.embed_tokens.weight", 7), ("model.layers.1.mlp.up_proj.weight", 3)])
def test_a_base_that_is_not_finite(align: Any, base_folder: Path, tmp_path: Path, name: str, row: int):
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    with torch.no_grad():
        model.get_parameter(name)[row, 2] = float("inf")
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(tmp_path / "broken")
    with pytest.raises(NumericError, match=rf"{name} is not finite in rows \[{row}\]"):
        align(base=tmp_path / "broken")


def work(rank: int, path: str, init: str, out: str) -> None:
    flags = ("--align.words", "6", "--align.target_tokens", "256", "--align.lr", "1e-2")
    with process_group(torch.device("cpu")) if rank >= 0 else nullcontext(ALONE) as world:
        build_align(load_recipe(Path(path), list(flags)), Path(init), LEXICON, None if rank > 0 else Path(out), world)


def rank_work(rank: int, size: int, *arguments: str) -> None:
    work(rank, *arguments)


def test_two_ranks_build_what_one_builds(base_folder: Path, vocab: Path, tmp_path: Path):
    make: Callable[..., Path] = inspect.unwrap(recipe_file)  # the fixture's function: the ranks need the path
    path = make(tmp_path, base_folder)
    init, alone, together = tmp_path / "init", tmp_path / "alone", tmp_path / "together"
    for folder in (init, alone, together):
        folder.mkdir()
    build_init(with_texts(load_recipe(path, [])), base_folder, vocab, LEXICON, init, torch.device("cpu"))
    work(-1, str(path), str(init), str(alone))
    run_ranks(2, rank_work, str(path), str(init), str(together))
    one, two = (load_file(out / "model.safetensors") for out in (alone, together))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5, msg=name)
    done, same = (report(out) for out in (alone, together))
    assert same["contrast_stage"]["flops"] >= done["contrast_stage"]["flops"] > 0  # pieces are read on every rank
    assert len(same["contrast"]) == 3
