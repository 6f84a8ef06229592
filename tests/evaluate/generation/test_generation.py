"""The measure of generation: what it asks, what it counts, and what it leaves out with a reason."""

from pathlib import Path

import pytest

pytest.importorskip("py3langid")
pytest.importorskip("sacrebleu")

from prealign_cpt.evaluate.figures import Absent, Figure
from prealign_cpt.evaluate.generation import generation
from prealign_cpt.evaluate.generation.generation import beginnings, measure
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import Work
from prealign_cpt.run.errors import DataError
from tests.conftest import ENGLISH, TARGET


@pytest.fixture
def work(tmp_path: Path) -> Work:
    lines = [
        (a, b) for e, t in zip(ENGLISH, TARGET, strict=True) for a, b in zip(e.split("\n"), t.split("\n"), strict=True)
    ]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines), encoding="utf-8")
    for name, texts in (("target", TARGET), ("english", ENGLISH)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(text.replace("\n", " ") for text in texts), encoding="utf-8")
    return Work(
        target=(("test", tmp_path / "target.txt"),),
        english=(("test", tmp_path / "english.txt"),),
        parallel=tmp_path / "pairs.tsv",
        language="German",
    )


class Scripted:
    """Stands for `write`: German after everything, the first two answers empty."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, subject, prompts, max_tokens, stop=None, seed=0, label=""):
        self.asked.append(prompts)
        return ["", " ", *(" " + TARGET[0].split("\n")[0] for _ in prompts[2:])]


def test_figures_of_known_answers(base_folder: Path, work: Work, monkeypatch: pytest.MonkeyPatch):
    written = Scripted()
    monkeypatch.setattr(generation, "write", written)
    found = measure(Subject(base_folder), work)
    (target, english, into, out_of) = written.asked
    assert (len(target), len(english)) == (4, 4), "one text is too short to be cut"
    lpr, coverage = found["lpr/target"], found["coverage/target"]
    assert isinstance(lpr, Figure) and isinstance(coverage, Figure)
    assert lpr.value == 0.5 and coverage.value == 0.5, "two of four wrote nothing: unknown, not passed"
    assert "2 of 4 could be judged; identifier wrong on 0 of" in lpr.note
    assert found["lpr/english"].value == 0.0, "English prompts that are answered in German"
    assert found["coverage/english"].value == 0.5
    assert found["wpr/target"] == Absent("both languages are written in one script")
    assert found["lid_error/target"].value == found["lid_error/english"].value == 0.0
    assert into[0].startswith("English: ") and into[0].endswith("\nGerman:") and into[0].count("English: ") == 5
    assert out_of[0].startswith("German: ") and out_of[0].endswith("\nEnglish:")
    assert "2 of 6 empty" in found["chrf/english_to_target"].note
    assert found["chrf/english_to_target"].value > found["chrf/target_to_english"].value
    assert 5 < found["chrf_copy/english_to_target"].value < 50, "the languages share letters"


def test_what_is_absent_says_why(base_folder: Path, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation, "write", Scripted())
    found = measure(Subject(base_folder), Work())
    assert set(found) == {f"{kind}/{side}" for kind in ("lpr", "coverage", "wpr") for side in ("target", "english")} | {
        f"{kind}/{way}" for kind in ("chrf", "chrf_copy") for way in ("english_to_target", "target_to_english")
    }
    assert all(isinstance(one, Absent) and "no local data" in one.reason for one in found.values())
    unknown = measure(Subject(base_folder), Work(target=work.target, english=work.english, language="Ligurian"))
    assert "py3langid does not know" in unknown["lpr/target"].reason
    swapped = measure(Subject(base_folder), Work(target=work.english, english=work.target, language="German"))
    assert "no pass rate can be trusted" in swapped["lpr/target"].reason and swapped["lid_error/target"].value == 1.0
    (tmp_path / "few.tsv").write_text("a\tb\nc\td\n")
    with pytest.raises(DataError, match=r"few.tsv: 2 pairs; 8 are needed"):
        measure(Subject(base_folder), Work(parallel=tmp_path / "few.tsv"))


def test_a_real_model_is_asked(base_folder: Path, work: Work, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation, "CONTINUE_TOKENS", 6)
    monkeypatch.setattr(generation, "MOST_TOKENS", 6)
    found = measure(Subject(base_folder), work)
    assert all(isinstance(found[f"lpr/{side}"], Figure) for side in ("target", "english"))
    assert found == measure(Subject(base_folder), work), "greedy: the same twice"


def test_prompts_are_beginnings_of_lines():
    text = ENGLISH[0].replace("\n", " ")
    (found,) = beginnings([text, "Too short a line."])
    assert text.startswith(found) and 30 <= len(found) <= 60 and text[len(found)] == " "
