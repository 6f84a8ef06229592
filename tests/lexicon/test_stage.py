"""The lexicon stage: files, counts, conversion."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.lexicon.stage import WordList, build_lexicon, convert
from prealign_cpt.run.errors import DataError, RecipeError, StorageError

ROOT = Path(__file__).parents[2]


def lexicon(folder: Path, *extra: str) -> Path:
    path = folder / "in.tsv"
    lines = [f"{a}{b}word\t{a}{b}wort" for a in "bcdfg" for b in "klmnp"]
    path.write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")
    return path


def test_a_lexicon_becomes_four_files_whose_counts_agree(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    extra = [f"go\t{target}" for target in ("gehen", "fahren", "gehen", "laufen", "reisen")]
    report = build_lexicon([WordList(lexicon(tmp_path, *extra, "1\t2"))], "tsv", 0.2, 0, out, max_per_source=3)
    assert sorted(path.name for path in out.iterdir()) == ["clean.tsv", "dropped.tsv", "heldout.tsv", "report.json"]
    assert json.loads((out / "report.json").read_text()) == report
    train, test = read_pairs(out / "clean.tsv"), read_pairs(out / "heldout.tsv")
    assert report["rows"] == 31
    assert report["kept"] == report["pairs"] == 28 == len(train) + len(test) + report["heldout"]["pairs_lost"]
    assert report["dropped"] == {"duplicate": 1, "beyond the first translations": 1, "no letters": 1}
    assert report["heldout"]["sources"] == 5
    assert (out / "dropped.tsv").read_text() == (
        "28\tduplicate\tgo | gehen\n30\tbeyond the first translations\tgo | reisen\n31\tno letters\t1 | 2\n"
    )
    gone = [pair for pair in train + test if pair.source == "go"]
    assert [pair.target for pair in gone] == ["gehen", "fahren", "laufen"]


def test_the_result_does_not_depend_on_the_order_of_sources(tmp_path: Path) -> None:
    path = lexicon(tmp_path)
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build_lexicon([WordList(path)], "tsv", 0.2, 3, tmp_path / name)
        contents.append([(tmp_path / name / file).read_bytes() for file in ("clean.tsv", "heldout.tsv")])
        path.write_text("".join(f"{line}\n" for line in reversed(path.read_text().splitlines())))
    assert contents[0] == contents[1]


def test_hidden_characters_of_dropped_rows_are_written_as_escapes(tmp_path: Path) -> None:
    path = tmp_path / "d.index"
    path.write_text("go\tA\tQ\n")
    path.with_name("d.dict").write_bytes(b"go\nge\x1bhen, geht\n".ljust(16))
    out = tmp_path / "out"
    out.mkdir()
    build_lexicon([WordList(path)], "dictd", 0.0, 0, out)
    assert (out / "dropped.tsv").read_text() == "1\tcontrol character\tgo | ge\\u001bhen\n"


def test_a_recipe_without_meaning_is_refused(tmp_path: Path) -> None:
    path = lexicon(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(RecipeError, match="'csv' is unknown; choose one of auto, tsv, muse, columns, dictd"):
        build_lexicon([WordList(path)], "csv", 0.1, 0, tmp_path / "out")
    with pytest.raises(RecipeError, match="max_per_source"):
        build_lexicon([WordList(path)], "tsv", 0.1, 0, tmp_path / "out", max_per_source=0)


def test_comments_alone_are_no_lexicon(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_text("# one\n# two\n")
    with pytest.raises(DataError, match="no pair is left"):
        convert(path, "tsv", tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


def test_conversion_keeps_all_translations_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"go t{letter}\n" for letter in "zyxwvutsr"))
    counts = convert(path, "muse", tmp_path / "out.tsv")
    assert counts["pairs"] == 9
    assert read_pairs(tmp_path / "out.tsv") == [Pair("go", f"t{letter}") for letter in "zyxwvutsr"]
    with pytest.raises(StorageError, match="never overwritten"):
        convert(path, "muse", tmp_path / "out.tsv")


def test_the_quality_benchmark_measures_coverage_and_agreement(tmp_path: Path) -> None:
    ours, theirs, text = tmp_path / "ours.tsv", tmp_path / "theirs.tsv", tmp_path / "text.txt"
    ours.write_text("house\tHaus\nhouse\tHeim\ngo\tgehen\ncloud\tWolke\ngo to bed\tins Bett gehen\n")
    theirs.write_text("House\tdas Haus\nto go\tgehen\ncloud\tRechnerwolke\ngo bed\tBett\n")
    text.write_text("The House, the cloud: it doesn’t rain.\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "lexicon_quality.py"), str(ours), "--text", str(text)]
    command += ["--target-text", str(text), "--against", str(theirs), "--show", "3"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert output[0] == "cloud: wolke / rechnerwolke"
    result = json.loads(output[-1])
    assert (result["headwords"], result["pairs"], result["several_translations"]) == (4, 5, 0.25)
    assert result["english"]["tokens"] == 7 and result["english"]["covered"] == 0.2857
    assert result["english"]["content_tokens"] == 3 and result["english"]["content_covered"] == 0.6667
    assert result["target"]["covered"] == 0.0
    assert result["against"]["exact"]["headwords_agreeing"] == 0.0
    assert result["against"]["loose"]["headwords_agreeing"] == 0.6667
    assert result["against"]["loose"]["pairs_found_there"] == 0.5
