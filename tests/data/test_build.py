"""The data stage as a whole, for each option of the recipe that changes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from prealign_cpt.data.build import build_data, read_mixture
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import sha256
from prealign_cpt.vocab.grow import grow_tokenizer
from tests.conftest import ENGLISH, PAIRS, TARGET, run_ranks, with_texts

LEXICON = [Pair(s, t) for s, t in PAIRS]


@pytest.fixture(scope="session")
def grown(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vocab") / "grown"
    grow_tokenizer(base_folder, TARGET, ENGLISH, 30, out)
    return out


def build(recipe_file: Path, base: Path, grown: Path, name: str, *flags: str) -> tuple[Recipe, Path, dict[str, Any]]:
    recipe = with_texts(load_recipe(recipe_file, list(flags)))
    out = recipe_file.parent / name
    out.mkdir()
    build_data(recipe, base, grown, LEXICON, out, out.with_name(f"{name}.tasks"), 1)
    return recipe, out, json.loads((out / "report.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file())


def test_constant_switching(recipe_file: Path, base_folder: Path, grown: Path):
    _, out, report = build(recipe_file, base_folder, grown, "data")
    assert names(out) == [
        *(f"english/00000-000.{kind}.npy" for kind in ("inputs", "labels", "words")),
        *("report.json", "target/00000-000.inputs.npy"),
    ]
    english, target = report["english"], report["target"]
    text = (recipe_file.parent / "target.txt").read_text(encoding="utf-8").split("\n\n")
    size = sum(len(document.encode()) for document in text)
    assert target["bytes_per_token"] == pytest.approx(size / target["tokens"], abs=1e-4)
    assert report["sequences_used"] == {"target": 18, "english": 6}
    assert english["switched_share"] == round(english["switched"] / english["words"], 4)
    assert 0 < english["switched"] < english["chosen"] < english["words"]
    assert abs(english["switched_share_used"] - english["switched_share"]) < 0.1
    assert report["target"]["fill"] == english["fill"] == 1.0
    assert report["new_tokens_labelled"] > 5


def test_the_share_used_is_counted_in_the_rows_that_are_read(recipe_file: Path, base_folder: Path, grown: Path):
    recipe, out, report = build(recipe_file, base_folder, grown, "data", "--codeswitch.ratio", "1.0")
    mixture = read_mixture(recipe, out)
    rows = [row for name, _, row in map(mixture.locate, range(24)) if name == "english"]
    tokenizer = AutoTokenizer.from_pretrained(grown)
    begins = np.array(
        [text.startswith(" ") and text[1:].isalpha() for text in map(tokenizer.decode, range(len(tokenizer)))]
    )
    inputs, labels = map(np.stack, zip(*map(mixture.texts["english"][0].row, rows), strict=True))
    switched = (labels != inputs) & (labels != -100)
    # The first words of lines begin without a space; here they are few, and not switched words are counted by it.
    words = (begins[labels] & (labels != -100)).sum()
    assert switched.sum() > 20
    assert report["english"]["switched_share_used"] == pytest.approx(switched.sum() / words, rel=0.3)


def test_falling_switching(recipe_file: Path, base_folder: Path, grown: Path):
    flags = ["--codeswitch.curriculum", "falling", "--train.sequences", "16", "--codeswitch.ratio", "1.0"]
    recipe, out, report = build(recipe_file, base_folder, grown, "data", *flags)
    assert "english.plain/00000-000.inputs.npy" in names(out) and "english.plain/00000-000.labels.npy" not in names(out)
    assert report["sequences_used"] == {"target": 72, "english": 12, "english_plain": 12}
    mixture = read_mixture(recipe, out)
    _, labels = mixture.rows(list(range(96)))
    inputs, _ = mixture.rows(list(range(96)))
    changed = (inputs != labels).sum(1)
    half = [int(changed[:48].sum()), int(changed[48:].sum())]
    assert half[0] > 2 * half[1] > 0
    english = report["english"]
    assert 0.35 < english["switched_share_used"] / english["switched_share"] < 0.65
    _, other, _ = build(recipe_file, base_folder, grown, "constant", "--codeswitch.ratio", "1.0")
    assert sha256(other / "target/00000-000.inputs.npy") == sha256(out / "target/00000-000.inputs.npy")


def test_every_pass_is_switched_anew(recipe_file: Path, base_folder: Path, grown: Path):
    flags = ["--train.sequences", "400", "--data.sequence_length", "8"]
    _, out, report = build(recipe_file, base_folder, grown, "data", *flags)
    passes, rest = divmod(report["english"]["documents"], 32)
    assert passes > 2 and rest == 0
    start = AutoTokenizer.from_pretrained(grown).bos_token_id
    stream = np.load(out / "english/00000-000.inputs.npy").ravel()
    documents = np.split(stream, np.flatnonzero(stream == start))[1:-1]
    assert len({tuple(ids) for ids in documents[::32]}) > 2, "document 0 in each pass"


def test_soft_labels_are_the_arrays_of_input_only(recipe_file: Path, base_folder: Path, grown: Path):
    _, hard, _ = build(recipe_file, base_folder, grown, "hard")
    _, soft, _ = build(recipe_file, base_folder, grown, "soft", "--codeswitch.labels", "soft")
    assert {n: sha256(hard / n) for n in names(hard)} == {n: sha256(soft / n) for n in names(soft)}


def test_mixed_tokenization_of_target_text(recipe_file: Path, base_folder: Path, grown: Path):
    _, plain, before = build(recipe_file, base_folder, grown, "plain")
    _, mixed, after = build(recipe_file, base_folder, grown, "mixed", "--data.mixed_tokenization", "0.5")
    assert sha256(plain / "english/00000-000.inputs.npy") == sha256(mixed / "english/00000-000.inputs.npy")
    assert (
        after["target"]["tokens"] / after["target"]["documents"]
        > before["target"]["tokens"] / before["target"]["documents"]
    )
    assert 0 < after["target"]["respelled_share"] < 0.5
    tokenizer = AutoTokenizer.from_pretrained(grown)
    texts = [tokenizer.decode(np.load(folder / "target/00000-000.inputs.npy").ravel()) for folder in (plain, mixed)]
    length = min(map(len, texts)) - 40
    assert texts[0][:length] == texts[1][:length]


def test_without_replay(recipe_file: Path, base_folder: Path, grown: Path):
    flags = ["--data.english_share", "0.0", "--codeswitch.curriculum", "falling"]
    recipe, out, report = build(recipe_file, base_folder, grown, "data", *flags)
    assert names(out) == ["report.json", "target/00000-000.inputs.npy"] and "english" not in report
    assert len(read_mixture(recipe, out).rows([0, 5, 23])[0]) == 3


def test_english_without_words(recipe_file: Path, base_folder: Path, grown: Path):
    (recipe_file.parent / "english.txt").write_text("1234 5678. " * 100, encoding="utf-8")
    with pytest.raises(DataError, match="no words were found"):
        build(recipe_file, base_folder, grown, "data")


def _on_a_rank(rank: int, size: int, recipe_file: Path, base: Path, grown: Path) -> dict[str, str]:
    flags = ["--codeswitch.curriculum", "falling", "--data.mixed_tokenization", "0.5"]
    _, out, _ = build(recipe_file, base, grown, f"rank {rank}", *flags)
    return {name: sha256(out / name) for name in names(out)}


def test_every_process_packs_the_same_bytes(recipe_file: Path, base_folder: Path, grown: Path):
    with_texts(load_recipe(recipe_file))
    one, other = run_ranks(2, _on_a_rank, recipe_file, base_folder, grown)
    assert one == other and len(one) == 8
