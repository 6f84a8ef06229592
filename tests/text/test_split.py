"""What is held out of a text, by content alone."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.reader import read_documents
from prealign_cpt.text.split import Repeated, place, share_of, side_of, stretches, stretches_of
from prealign_cpt.text.stage import build_text, held_out_documents, shard_path, text_report
from tests.conftest import START

BOTH = ("valid", "test")


def test_shares_are_halved_as_the_text_grows():
    assert share_of(1_000_000, "a") == 0.05 and share_of(10_000_000, "a") == 0.0125
    assert 100_000 <= share_of(10**9, "a") * 10**9 < 200_000
    with pytest.raises(DataError, match=r"text\.target: 19,999 bytes are too few"):
        share_of(19_999, "text.target")


@given(st.text(min_size=1), st.integers(0, 12))
def test_a_document_never_moves_from_training_to_held_out_text(document: str, halvings: int):
    larger, smaller = (side_of(document, 0.05 / 2**n, BOTH) for n in (halvings, halvings + 1))
    assert smaller in (larger, "train")


def test_places_are_uniform():
    places = sorted(place(f"document {i}") for i in range(2000))
    assert max(abs(at - i / 2000) for i, at in enumerate(places)) < 0.04, "Kolmogorov-Smirnov, p about 0.003"


@given(st.binary(min_size=1, max_size=80))
def test_stretches_are_equal_where_bytes_are(data: bytes):
    text = data.decode("latin-1")
    raw, hashes = text.encode(), stretches(text).tolist()
    width = min(32, len(raw))
    found: dict[bytes, int] = {}
    for i, value in enumerate(hashes):
        assert found.setdefault(raw[i : i + width], value) == value
    assert len(hashes) == len(raw) - width + 1 and len(set(found.values())) == len(found)
    assert stretches("x" * 7 + text).tolist()[7 if len(raw) >= 32 else len(raw) :][: len(hashes)] == (
        hashes if len(raw) >= 32 else []
    )


def article(number: int) -> str:
    return " ".join(f"neno{number}x{i} na" for i in range(60))


def training_documents(recipe: Recipe, side: str) -> Iterator[str]:
    """The documents of a side's training text, as the stage wrote them, source after source."""
    for source in text_report(recipe, side)["sources"]:
        for shard, _, _ in source["shards"]:
            yield from read_documents([shard_path(recipe, source["name"], shard)], recipe.text.column)


class TestStage:
    @pytest.fixture
    def recipe_path(self, tmp_path: Path, base_folder: Path) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir()
        for i in range(300):
            (folder / f"{i}.txt").write_text(article(i))
        (tmp_path / "english.txt").write_text("\n\n".join(f"The {i} houses near the river" for i in range(2000)))
        path = tmp_path / "r.toml"
        path.write_text(
            f'name = "r"\nlanguage = "Swahili"\nout = "{tmp_path}"\nbase.model = "{base_folder}"\n'
            f'base.start_token = "{START}"\ntext.target = ["corpus"]\ntext.english = ["english.txt"]\n'
        )
        return path

    def built(self, path: Path, *flags: str) -> dict[str, set[str]]:
        recipe = load_recipe(path, list(flags), auto=True)
        out = recipe.run / "text"
        out.mkdir(parents=True)
        build_text(recipe, out, recipe.run / "tasks", 1)
        sets = {name: set(held_out_documents(recipe, name, "target")) for name in ("valid", "test")}
        return {**sets, "train": set(training_documents(recipe, "target"))}

    def test_every_document_is_on_one_side(self, recipe_path: Path):
        found = self.built(recipe_path)
        assert all(found.values()) and sum(map(len, found.values())) == 300
        assert set().union(*found.values()) == {article(i) for i in range(300)}

    def test_more_files_move_nothing_into_the_held_out_text(self, recipe_path: Path):
        before = self.built(recipe_path)
        for i in range(300, 900):
            (recipe_path.parent / "corpus" / f"{i}.txt").write_text(article(i))
        after = self.built(recipe_path, "--name", "again")
        assert before["train"] <= after["train"]

    def test_near_copies_of_held_out_text_are_not_trained_on(self, recipe_path: Path, capsys):
        held = self.built(recipe_path)["valid"]
        for i, document in enumerate(sorted(held)):
            (recipe_path.parent / "corpus" / f"copy{i}.txt").write_text(document.replace("x30 ", "x31 ") + " mwisho")
        capsys.readouterr()
        found = self.built(recipe_path, "--name", "again")
        known = Repeated(stretches_of(found["valid"] | found["test"]))
        assert all(known.share(document) < 0.5 for document in found["train"])
        assert "documents left out that repeat held-out text" in capsys.readouterr().out

    def test_one_long_document_is_split_in_parts(self, recipe_path: Path, capsys):
        book = recipe_path.parent / "book.txt"
        book.write_text("\n".join(article(i) for i in range(300)))
        found = self.built(recipe_path, '--text.target=["book.txt"]', "--text.document=file")
        assert all(found.values())
        assert "parts of documents" in capsys.readouterr().out

    def test_named_texts_are_not_split_off(self, recipe_path: Path):
        (recipe_path.parent / "valid.txt").write_text("Habari.")
        found = self.built(recipe_path, "--text.valid_target=valid.txt")
        assert found["valid"] == {"Habari."} and len(found["test"]) + len(found["train"]) == 300
        assert not (recipe_path.parent / "r/text/target.valid.jsonl").exists()

    def test_text_in_another_language_is_told(self, recipe_path: Path, capsys):
        german = "das alte Haus steht nicht mehr am Fluss und der kleine Hund schläft oft vor meiner neuen Tür"
        words = german.split()
        texts = (" ".join(random.Random(i).choices(words, k=20)) for i in range(1000))
        (recipe_path.parent / "de.txt").write_text("\n\n".join(texts))
        self.built(recipe_path, '--text.target=["de.txt"]')
        assert "warning: 100% of the documents look foreign (de 100%)" in capsys.readouterr().out
