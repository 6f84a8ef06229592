"""`prealign audit`: what was planted is found, and the clean copy is without it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from prealign_cpt.audit import command
from prealign_cpt.audit.command import audit
from prealign_cpt.cli import main
from prealign_cpt.evaluate.exposure import FORMAT, PAIRS, TEXT, exposure
from prealign_cpt.evaluate.figures import Figure, Outcome
from prealign_cpt.evaluate.table import table
from prealign_cpt.model.tokens import encode_text
from prealign_cpt.recipe.file import anywhere, as_toml, load_recipe
from prealign_cpt.run import tasks
from prealign_cpt.run.errors import BusyError, MissingInputError, StorageError
from prealign_cpt.text.reader import read_documents
from tests.conftest import START
from tests.report.conftest import fill, page_of

from .texts import sentences

MANY = 10_000

CHOSEN = [
    *("--vocab.size=0", "--data.sequence_length=64", "--train.steps=4", "--train.sequences=1"),
    *("--train.eval_every=2", "--train.save_every=2"),
]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe_in(folder: Path, base: Path, english: list[str], target: list[str], more: str = "") -> Path:
    """A recipe over some lines, with held-out text of 200 lines a side."""
    folder.mkdir(exist_ok=True)
    write(folder / "english.txt", english)
    write(folder / "target.txt", target)
    for side, code in (("english", "en"), ("target", "de")):
        for seed, name in ((7, "valid"), (8, "test")):
            write(folder / f"{name}_{side}.txt", sentences(code, 100, seed))
    pairs = [f"w{i}a\tW{i}b" for i in range(40)] + ["goldfish\tZierfisch", "icebear\tEisbär"]
    write(folder / "lexicon.tsv", pairs)
    held_out = "".join(
        f'{name}_{side} = "{name}_{side}.txt"\n' for name in ("valid", "test") for side in ("target", "english")
    )
    path = folder / "r.toml"
    path.write_text(
        f'name = "r"\nlanguage = "German"\nout = "{folder}"\n[base]\nmodel = "{base}"\nstart_token = "{START}"\n'
        f'[lexicon]\npath = "lexicon.tsv"\nheldout = 0.5\n[text]\ndocument = "line"\ntarget = ["target.txt"]\n'
        f'english = ["english.txt"]\n{held_out}{more}'
    )
    return path


def report_of(path: Path) -> Any:
    return json.loads((path.parent / "r/audit/audit.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> tuple[Path, dict[str, str]]:
    """10,000 English lines, of which one is German, one a test line, and one holds both words of a held-out pair."""
    folder = tmp_path_factory.mktemp("planted")
    english = sentences("en", MANY - 3)
    path = recipe_in(folder, base_folder, [], sentences("de", 500))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "each", lambda *_: pytest.fail("only the pairs are wanted"))
        pairs = {(pair.source, pair.target) for pair in command._held_out_pairs(load_recipe(path, auto=True))}
    (source, target), *_ = sorted(pairs)
    lines = {
        "german": sentences("de", 1, seed=3)[0],
        "test": sentences("en", 100, seed=8)[41],
        "pair": f"The sign above the door said {source}, which they call {target} where my father was born.",
    }
    for name, at in (("german", 1234), ("test", 5678), ("pair", 9000)):
        english.insert(at, lines[name])
    write(folder / "english.txt", english)
    audit(path)
    return path, lines


def test_one_line_of_ten_thousand_in_the_other_language_is_found(
    planted: tuple[Path, dict[str, str]], tokenizer: PreTrainedTokenizerBase
):
    path, lines = planted
    report = report_of(path)
    english = report["texts"]["english"]
    assert english["documents"] == MANY and english["languages"]["de"]["lines"] == 1
    assert english["worst"][0] == {
        "tokens": len(encode_text(tokenizer, lines["german"])),
        "place": f"{path.parent / 'english.txt'}: document 1,235",
        "language": "de",
        "line": lines["german"],
    }
    assert report["exposure"]["German in the English text"].endswith(" %), 1 lines")
    assert report["exposure"]["English in the German text"] == "0 tokens (0 %), 0 lines"
    assert report["judged"]["english"]["wrong"] == 0 and report["judged"]["english"]["lines"] == 200


def test_one_test_line_in_ten_thousand_is_found(planted: tuple[Path, dict[str, str]]):
    path, lines = planted
    sets = report_of(path)["sets"]
    counts = {name: [found[key] for key in ("lines", "whole", "half")] for name, found in sets.items()}
    assert counts == {
        **{"target/valid": [100, 0, 0], "target/test": [100, 0, 0]},
        **{"english/valid": [100, 0, 0], "english/test": [100, 1, 1]},
    }
    assert sets["english/test"]["places"] == [
        {"line": lines["test"], "place": f"{path.parent / 'english.txt'}: document 5,679"}
    ]


def test_a_held_out_pair_in_one_line_is_found(planted: tuple[Path, dict[str, str]]):
    path, _ = planted
    pairs = report_of(path)["pairs"]
    assert (pairs["asked"], pairs["met"], pairs["met_by_chance"]) == (21, 1, 0)
    assert pairs["places"][0]["place"].endswith("english.txt: document 9,001")


@pytest.fixture
def dirty(tmp_path: Path, base_folder: Path) -> tuple[Path, list[str]]:
    """Lines of which some are to be left out, and what should stay."""
    clean = sentences("en", 300)
    rng = random.Random(0)
    long = [f"word{rng.randrange(9999)}" for _ in range(200)]
    nearly = [*long[:100], "other", *long[101:]]
    stays = [*clean, " ".join(["It said that", *long])]
    bad = [
        *(sentences("de", 1, seed=3)[0], sentences("en", 100, seed=8)[3], "Too short."),
        *("Key: " + "QUJD" * 80 + " is all that there is here.", "again and again and " * 40),
        *(clean[5].upper(), " ".join(["It said that", *nearly])),
    ]
    return recipe_in(tmp_path, base_folder, stays + bad, sentences("de", 50)), stays


def test_the_clean_copy(dirty: tuple[Path, list[str]], tmp_path: Path, capsys: Any):
    path, stays = dirty
    out = tmp_path / "new/clean"
    assert main(["audit", str(path), "--filter", str(out)]) == 0
    assert list(read_documents([out / "english/00000.jsonl"])) == stays
    removed = report_of(path)["clean"]["english"]["removed"]
    assert {reason: number for reason, (number, _) in removed.items()} == dict.fromkeys(
        ("language", "test", "short", "long", "repetitive", "exact", "near"), 1
    )
    assert removed["language"][1] == len(sentences("de", 1, seed=3)[0].encode())
    printed = capsys.readouterr().out
    assert "Clean copy" in printed and "documents kept" in printed and "audit.json" in printed
    assert not list(path.parent.glob("r/.tasks-*")), "nothing is left lying about"
    text = path.read_text().replace('"english.txt"', f'"{out / "english"}"')
    path.write_text(text)
    audit(path)
    again = report_of(path)
    assert set(again["texts"]["english"]["languages"]) == {"en", "unsure"} and again["sets"]["english/test"]["any"] == 0


def test_lines_are_cut_out_of_documents(tmp_path: Path, base_folder: Path):
    english, german = sentences("en", 20), sentences("de", 2, seed=3)
    documents = [f"{english[0]}\n{german[0]}\n{english[1]}", "\n".join(english[2:6]), german[1]]
    path = recipe_in(tmp_path, base_folder, ["\n\n".join(documents)], sentences("de", 30))
    path.write_text(path.read_text().replace('document = "line"', 'document = "paragraph"'))
    audit(path, clean=tmp_path / "clean")
    assert list(read_documents([tmp_path / "clean/english/00000.jsonl"])) == [
        f"{english[0]}\n{english[1]}",
        documents[1],
    ]


def test_a_run_is_audited_as_it_reads_its_text(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Held-out text that the run has split off is test text of the run, and training text of the recipe's files."""
    path = recipe_in(tmp_path, base_folder, sentences("en", 400), sentences("de", 400))
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith(("valid_", "test_")))
    path.write_text(text + "\n")
    audit(path)
    assert report_of(path)["sets"] == {} and report_of(path)["judged"]["target"]["lines"] == 0
    assert main(["prepare", str(path), "--skip", "lexicon"]) == 0
    assert exposure(tmp_path / "r") == report_of(path)["exposure"], "the recipe's audit is of the same text"
    (tmp_path / "r/recipe.toml").write_text(as_toml(anywhere(load_recipe(path, CHOSEN))))
    monkeypatch.chdir(tmp_path)
    audit(Path("r"))
    report = report_of(path)
    assert {"target/valid", "target/test", "english/valid", "english/test"} == set(report["sets"])
    assert all(found["half"] == 0 for found in report["sets"].values())
    assert "text/train/target/00000-000.jsonl" in json.dumps(report["texts"]) or not report["texts"]["target"]["worst"]
    write(tmp_path / "target.txt", sentences("de", 401))
    assert main(["prepare", str(path), "--skip", "lexicon", "--redo", "text"]) == 0
    assert exposure(tmp_path / "r") == {TEXT: "the audit is of other text: prealign audit again"}


@pytest.mark.usefixtures("warm_workers")
def test_workers_decide_nothing(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = recipe_in(tmp_path, base_folder, sentences("en", 60), sentences("de", 60) + sentences("en", 100, seed=8)[:3])
    monkeypatch.setattr(tasks, "BYTES_A_WORKER", 1)
    found = []
    for workers in (1, 2):
        audit(path, clean=tmp_path / f"clean{workers}", workers=workers)
        found.append((report_of(path), (tmp_path / f"clean{workers}/target/00000.jsonl").read_bytes()))
    assert found[0] == found[1] and found[0][0]["sets"]["english/test"]["whole"] == 3


def test_a_second_start_takes_what_is_done(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = recipe_in(tmp_path, base_folder, sentences("en", 40), sentences("de", 40))
    done: list[str] = []

    def stopped(task: Any, prefix: Path) -> Any:
        done.append(prefix.parent.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return read(task, prefix)

    read = command.read
    monkeypatch.setattr(command, "read", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(path)
    assert not (tmp_path / "r/audit/audit.json").exists()
    audit(path)
    assert done == ["target", "english", "english"] and report_of(path)["texts"]["target"]["documents"] == 40


def test_parallel_text_is_of_both_languages(tmp_path: Path, base_folder: Path):
    write(tmp_path / "a.en", sentences("en", 30, seed=4))
    write(tmp_path / "a.de", sentences("de", 30, seed=4))
    source = '[[text.source]]\nname = "bitext"\nenglish = ["a.en"]\ntarget = ["a.de"]\n'
    path = recipe_in(tmp_path, base_folder, sentences("en", 40), sentences("de", 40), source)
    audit(path, clean=tmp_path / "clean")
    report = report_of(path)
    assert report["texts"]["bitext"]["kind"] == "parallel" and not report["texts"]["bitext"]["worst"]
    assert report["texts"]["bitext"]["languages"].keys() == {"en", "de"}
    assert report["exposure"]["English in the German text"].startswith("0 tokens")
    assert report["exposure"]["parallel text"] == f"{report['texts']['bitext']['tokens']:,} tokens"
    assert not (tmp_path / "clean/bitext").exists(), "lines that belong together are not taken apart"


def test_further_test_files(tmp_path: Path, base_folder: Path):
    english, german = sentences("en", 40), sentences("de", 40)
    path = recipe_in(tmp_path, base_folder, english, german)
    write(tmp_path / "questions.tsv", [f"yes\t{german[3]}\t{english[4]}", f"no\t{sentences('de', 1, seed=9)[0]}"])
    audit(path, [tmp_path / "questions.tsv"])
    found = report_of(path)["sets"][str(tmp_path / "questions.tsv")]
    assert (found["lines"], found["whole"], found["any"]) == (3, 2, 2)


def test_a_language_that_cannot_be_told(tmp_path: Path, base_folder: Path):
    path = recipe_in(tmp_path, base_folder, sentences("en", 40), sentences("de", 40))
    path.write_text(path.read_text().replace('"German"', '"Clone"'))
    assert "py3langid cannot tell clone" in audit(path)
    shown = report_of(path)["exposure"]
    assert shown["Clone in the English text"] == "not known: py3langid cannot tell Clone"


def test_what_is_refused(tmp_path: Path, base_folder: Path):
    path = recipe_in(tmp_path, base_folder, sentences("en", 20), sentences("de", 20))
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="there: is there already"):
        audit(path, clean=tmp_path / "there")
    with pytest.raises(MissingInputError, match="no run that has its text"):
        audit(tmp_path)
    with pytest.raises(MissingInputError, match=r"none\.txt"):
        audit(path, [tmp_path / "none.txt"])
    with command.alone(tmp_path / "r/audit", "audit.lock", "audit"), pytest.raises(BusyError, match="another audit"):
        audit(path)
    assert not (tmp_path / "r/audit/audit.json").exists()


AUDIT = {
    "format": FORMAT, "text": {},
    "exposure": {"German in the English text": "5 tokens (0.1 %), 1 lines", PAIRS: "2 of 9"},
    "texts": {"english": {"kind": "english", "documents": 3, "bytes": 90, "tokens": 50, "worst": [{
        "language": "de", "place": "a.txt: document 2", "line": "<b>Ja</b>", "tokens": 5}],
        "languages": {"en": {"lines": 9, "tokens": 45}, "de": {"lines": 1, "tokens": 5}}}},
    "judged": {"english": {"asked": False, "codes": ["en"]}}, "pairs": {"places": []}, "sets": {},
}  # fmt: skip


def test_what_the_text_shows_stands_beside_zero_shot_figures(tmp_path: Path):
    run = fill(tmp_path / "run", 1.8)
    found = {"a": {name: Outcome("done", {"x": Figure(0.5)}, 1.0, False) for name in ("words", "transfer", "icl")}}
    rows = table(found, {}, {"a": exposure(run)})
    assert [line for line in rows if "audit" in line] == [
        f"| {name} | {TEXT} | not audited: prealign audit |" for name in ("words", "transfer")
    ]
    assert "P@1 is over 40 words; training text: not audited: prealign audit." in page_of(run).text
    (run / "audit").mkdir()
    (run / "audit/audit.json").write_text(json.dumps(AUDIT | {"text": {}}))
    rows = table(found, {}, {"a": exposure(run)})
    assert "| words | held-out pairs side by side | 2 of 9 |" in rows and len([r for r in rows if "2 of 9" in r]) == 1
    assert "| transfer | German in the English text | 5 tokens (0.1 %), 1 lines |" in rows
    page = page_of(run)
    assert "words; German in the English text: 5 tokens (0.1 %), 1 lines; held-out pairs" in page.text
    assert "de: a.txt: document 2: <b>Ja</b>" in page.text and "<b>Ja</b>" not in page.source
