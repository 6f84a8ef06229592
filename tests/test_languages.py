"""A run of two new languages: texts and word lists of each, one vocabulary, figures by language."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import main
from prealign_cpt.lexicon.pairs import read_pairs
from prealign_cpt.recipe.file import load_recipe
from tests.conftest import PAIRS, TARGET


def turned(text: str) -> str:
    """The same in another language: every word is spelt from its end."""
    return re.sub(r"\w+", lambda word: word.group()[::-1].capitalize(), text)


@pytest.fixture
def two(recipe_file: Path) -> Path:
    """The tiny recipe with the target text in two languages, each with a list; a few English words are in one alone."""
    folder = recipe_file.parent
    words, chosen = " ".join(TARGET).split(), random.Random(0)
    documents = [" ".join(chosen.sample(words, 20)) for _ in range(200)]
    (folder / "one.txt").write_text("\n\n".join(documents), encoding="utf-8")
    (folder / "two.txt").write_text("\n\n".join(map(turned, documents)), encoding="utf-8")
    lists = {"one": PAIRS[3:], "two": [(source, turned(target)) for source, target in PAIRS[:-3]]}
    for name, pairs in lists.items():
        (folder / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    text = recipe_file.read_text(encoding="utf-8")
    text = text.replace('target = ["target.txt"]\n', "").replace('path = "lexicon.tsv"\n', "")
    for name, language in (("one", "German"), ("two", "Dutch")):
        text += f'\n[[text.source]]\nname = "{name}"\ntarget = ["{name}.txt"]\n'
        text += f'language = "{language}"\nlexicon = "{name}.tsv"\n'
    path = folder / "two.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_figures_are_told_by_language(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--name=two", "--lexicon.heldout=0.3", "--align.max_english_increase=9", "--workers=1"]
    open_ended = ["--text.valid_target=", "--text.test_target=", "--evaluate.max_bytes=2000"]
    assert main(["eval", str(two), *flags, *open_ended]) == 0, capsys.readouterr()
    run = load_recipe(two, flags[:1]).run
    own: dict[str, Any] = {
        name: [read_pairs(run / f"lexicon/{half}.{name}.tsv") for half in ("clean", "heldout")]
        for name in ("one", "two")
    }
    clean, held = (read_pairs(run / f"lexicon/{half}.tsv") for half in ("clean", "heldout"))
    assert set(clean) == set(own["one"][0]) | set(own["two"][0]) and set(held) == set(own["one"][1]) | set(
        own["two"][1]
    )
    assert held and not {pair.source for pair in held} & {pair.source for pair in clean}, "held out in both languages"
    assert {pair.target for pair in own["two"][0]} <= {turned(target) for _, target in PAIRS}
    found = json.loads((run / "eval/report.json").read_text())["models"]["trained"]["by_source"]
    assert found["target"].keys() == found["words"].keys() == {"one", "two"}
    assert json.loads((run / "text/report.json").read_text())["target"]["language"]["code"] == "de nl"
    assert "- de\n- nl\n" in (run / "export/README.md").read_text(encoding="utf-8")
    assert main(["report", str(run)]) == 0


def test_what_belongs_to_no_target_text_is_refused(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two.write_text(two.read_text().replace('target = ["two.txt"]', 'english = ["two.txt"]'))
    assert main(["prepare", str(two)]) == 78
    assert "text.source[1]: language and lexicon belong to a source with target text" in capsys.readouterr().err
    two.write_text(
        two.read_text().replace('english = ["two.txt"]', 'target = ["two.txt"]').replace("two.tsv", "no.tsv")
    )
    assert main(["prepare", str(two), "--name", "other"]) == 66
    assert "text.two.lexicon" in capsys.readouterr().err


def test_an_audit_takes_each_language_for_the_run_s_own(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(two), "--workers", "1"]) == 0
    found = json.loads((load_recipe(two, auto=True).run / "audit/audit.json").read_text(encoding="utf-8"))
    assert found["judged"]["target"]["codes"] == ["de", "nl"]
