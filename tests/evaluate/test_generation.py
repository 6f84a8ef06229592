"""The measure of generation: what it asks, what it counts, and what it leaves out with a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("py3langid")
pytest.importorskip("sacrebleu")

from sacrebleu.metrics import CHRF

from prealign_cpt.evaluate import generation
from prealign_cpt.evaluate.confusion import main_script, script_of
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure
from prealign_cpt.evaluate.generation import SHOTS, beginnings, chrf, examples, measure, mixed_output, prompt
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.run.errors import DataError
from tests.conftest import ENGLISH, TARGET


@pytest.fixture
def data(tmp_path: Path) -> EvaluationData:
    lines = [
        (a, b) for e, t in zip(ENGLISH, TARGET, strict=True) for a, b in zip(e.split("\n"), t.split("\n"), strict=True)
    ]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines), encoding="utf-8")
    for name, texts in (("target", TARGET), ("english", ENGLISH)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(text.replace("\n", " ") for text in texts), encoding="utf-8")
    return EvaluationData(
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


def test_figures_of_known_answers(base_folder: Path, data: EvaluationData, monkeypatch: pytest.MonkeyPatch):
    written = Scripted()
    monkeypatch.setattr(generation, "write", written)
    found = measure(Subject(base_folder), data)
    (target, english, into, out_of) = written.asked
    assert (len(target), len(english)) == (4, 4), "one text is too short to be cut"
    lpr, coverage = found["lpr/target"], found["coverage/target"]
    assert isinstance(lpr, Figure) and isinstance(coverage, Figure)
    assert lpr.value == 0.5 and coverage.value == 0.5, "two of four wrote nothing: unknown, not passed"
    assert "2 of 4 could be judged; identifier wrong on 0 of" in lpr.note
    assert found["lpr/english"].value == 0.0, "English prompts that are answered in German"
    assert found["coverage/english"].value == 0.5
    assert found["lid_error/target"].value == found["lid_error/english"].value == 0.0
    assert into[0].startswith("English: ") and into[0].endswith("\nGerman:") and into[0].count("English: ") == 5
    assert out_of[0].startswith("German: ") and out_of[0].endswith("\nEnglish:")
    assert "2 of 6 empty" in found["chrf/english_to_target"].note
    assert found["chrf/english_to_target"].value > found["chrf/target_to_english"].value
    assert 5 < found["chrf_copy/english_to_target"].value < 50, "the languages share letters"


def test_what_is_absent_says_why(
    base_folder: Path, data: EvaluationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(generation, "write", Scripted())
    found = measure(Subject(base_folder), EvaluationData())
    assert set(found) == {f"{kind}/{side}" for kind in ("lpr", "coverage", "wpr") for side in ("target", "english")} | {
        f"{kind}/{way}" for kind in ("chrf", "chrf_copy") for way in ("english_to_target", "target_to_english")
    }
    assert all(isinstance(one, Absent) and "no local data" in one.reason for one in found.values())
    unknown = measure(
        Subject(base_folder), EvaluationData(target=data.target, english=data.english, language="Qwghlmian")
    )
    assert "py3langid does not know" in unknown["lpr/target"].reason
    swapped = measure(Subject(base_folder), EvaluationData(target=data.english, english=data.target, language="German"))
    assert "no pass rate can be trusted" in swapped["lpr/target"].reason and swapped["lid_error/target"].value == 1.0
    (tmp_path / "few.tsv").write_text("a\tb\nc\td\n")
    with pytest.raises(DataError, match=r"few.tsv: 2 pairs; 8 are needed"):
        measure(Subject(base_folder), EvaluationData(parallel=tmp_path / "few.tsv"))


def test_a_real_model_is_asked(base_folder: Path, data: EvaluationData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation, "CONTINUE_TOKENS", 6)
    monkeypatch.setattr(generation, "MOST_TOKENS", 6)
    found = measure(Subject(base_folder), data)
    assert all(isinstance(found[f"lpr/{side}"], Figure) for side in ("target", "english"))
    assert found == measure(Subject(base_folder), data), "greedy: the same twice"


def test_prompts_are_beginnings_of_lines():
    text = ENGLISH[0].replace("\n", " ")
    (found,) = beginnings([text, "Too short a line."])
    assert text.startswith(found) and 30 <= len(found) <= 60 and text[len(found)] == " "


RUSSIAN_TEXT = "старая река течёт через город, и луна стоит над водой; никто не говорит ни слова до утра"


def test_letters_of_the_other_script(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert [script_of(c) for c in "aЖԱ1 "] == ["LATIN", "CYRILLIC", "ARMENIAN", "", ""]
    assert main_script(["abc", "Ж 123"]) == "LATIN" and main_script(["12"]) == ""
    for name, text in (("target", RUSSIAN_TEXT), ("english", ENGLISH[0]), ("short", "коротко")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")

    def found(target: str, english: str, written: str = "abcя1") -> dict[str, Any]:
        monkeypatch.setattr(generation, "write", lambda subject, prompts, *_, **__: [written] * len(prompts))
        files = {
            side: (("test", tmp_path / f"{name}.txt"),) for side, name in (("target", target), ("english", english))
        }
        return mixed_output(Subject(base_folder), EvaluationData(mixed_prompts=2, **files))

    both = found("target", "english")
    assert (both["mixed/target"].value, both["mixed/english"].value) == (0.75, 0.25), "three of four, one of four"
    assert "4 letters" in both["mixed/english"].note
    assert "no letter" in found("target", "english", "1")["mixed/target"].reason
    assert "one script (LATIN)" in found("english", "english")["mixed/target"].reason
    assert "no held-out target text has 16 tokens" in found("short", "english")["mixed/target"].reason
    with pytest.raises(NoDataError, match="mixed_prompts"):
        mixed_output(Subject(base_folder), EvaluationData())


HYPOTHESES = ["the cat sat on mat", "a dog ran home", "nothing", ""]
REFERENCES = ["the cat sat on the mat", "the dog ran home quickly", "they all went away", "he slept"]


def test_chrf_says_how_it_was_computed():
    found = chrf(HYPOTHESES, REFERENCES, "greedy")
    assert found.value == CHRF(word_order=2).corpus_score(HYPOTHESES, [REFERENCES]).score and found.n == 4
    assert found.note.startswith("greedy; ") and "chrF++ nrefs:1|" in found.note
    assert "nw:2" in found.note and "version:" in found.note
    assert chrf(REFERENCES, REFERENCES).value == pytest.approx(100)


def test_the_interval_is_that_of_resampled_sentences():
    """Percentiles of 200 draws are known to about a tenth of their distance."""
    hypotheses, references = HYPOTHESES[:3] * 4, REFERENCES[:3] * 4
    found = chrf(hypotheses, references)
    drawn = [
        CHRF(word_order=2).corpus_score([hypotheses[i] for i in rows], [[references[i] for i in rows]]).score
        for rows in np.random.default_rng(0).integers(12, size=(200, 12))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)
    assert found.low < found.value < found.high and found.low == pytest.approx(low, abs=0.25 * (high - low))
    assert "bs:1000|seed:12345" in found.note and found == chrf(hypotheses, references)


def test_no_interval_is_made_up():
    nothing = chrf([""] * 4, REFERENCES)
    assert nothing.value == 0.0 and nothing.low is None
    nearly = chrf([HYPOTHESES[0], "", "", ""], REFERENCES)  # a third of the draws have no match
    assert nearly.value > 0 and nearly.low is nearly.high is None
    assert nearly.note.startswith("no interval, since nothing matches in some draws; chrF++ nrefs:1|case")
    assert "bs:" not in nearly.note


def test_examples_are_never_scored():
    pairs = [(f"sentence {i} " + "x" * (50 - i), f"Satz {i}") for i in range(24)]
    shots, asked = examples(pairs)
    assert len(shots) == SHOTS and len(asked) == 20 and not set(shots) & set(asked)
    assert shots == pairs[20:], "the shortest of the last quarter"
    assert prompt(shots[:1], "the sea", ("English", "German")).endswith("\n\nEnglish: the sea\nGerman:")
    assert prompt([("a", "b")], "c", ("X", "Y")) == "X: a\nY: b\n\nX: c\nY:"
