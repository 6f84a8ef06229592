"""Documents of files in every form that is read."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.text.reader import cut, guess_unit, read_documents
from prealign_cpt.text.sources import entries

DOCUMENTS = ["Habari ya asubuhi.\nKaribu nyumbani kwetu.", "Maji ni uhai, na mto ni mrefu.", "Ünï 漢字"]
PLAIN = "\n\n".join(DOCUMENTS) + "\n"


def json_lines(key: str = "text") -> str:
    return "".join(json.dumps({"id": i, key: text}) + "\n" for i, text in enumerate(DOCUMENTS))


@pytest.mark.parametrize(
    ("end", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda data: zstandard.ZstdCompressor().compress(data)),
    ],
)
@pytest.mark.parametrize(("kind", "content"), [(".txt", PLAIN), (".jsonl", json_lines()), (".NDJSON", json_lines())])
def test_packed_text(tmp_path: Path, kind: str, content: str, end: str, pack: Callable[[bytes], bytes]):
    path = tmp_path / f"a{kind}{end}"
    path.write_bytes(pack(content.encode()))
    assert list(read_documents([path])) == DOCUMENTS


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet", ".json", ".arrow"])
def test_tables(tmp_path: Path, kind: str):
    path = tmp_path / f"a{kind}"
    rows = [{"body": text, "number": i} for i, text in enumerate([*DOCUMENTS, "007", "NA"])]
    if kind in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["body", "number"], delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(path)
    assert list(read_documents([path], "body")) == [row["body"] for row in rows]
    with pytest.raises(DataError, match=r"no column 'text'; it has 'body', 'number'; see text.column"):
        list(read_documents([path]))


def test_a_table_with_a_broken_row(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('text,number\n"Habari\nyako",1\nKaribu\n')
    with pytest.raises(DataError, match=r"a.csv:4: 1 fields, but 2 columns"):
        list(read_documents([path]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", "%PDF", r"\.pdf is not read"),
        ("a.html", "<p>Habari</p>", r"\.html is not read"),
        ("a.txt", json_lines(), r"a\.txt:1: this is JSON"),
        ("a", '[{"text": "Habari"}]', "this is JSON"),
        ("a.txt", "Habari\0", "NUL"),
        ("a.parquet", PLAIN, "cannot be read"),
        ("a.jsonl", '{"text": "a"}\n{"body": "b"}\n', 'a.jsonl:2: not a JSON object with a "text" key'),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, name: str, content: str, words: str):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        list(read_documents([path]))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_packed_file_that_is_not_whole(tmp_path: Path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(PLAIN.encode() * 9)[:-20])
    with pytest.raises(DataError, match=r"a\.txt\.gz: damaged behind line \d+: .*; get the file again"):
        list(read_documents([path]))


def test_text_that_begins_with_a_bracket_is_text(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("[1] Habari ya asubuhi.\n{sic} Karibu.", encoding="utf-8")
    assert list(read_documents([path])) == ["[1] Habari ya asubuhi.\n{sic} Karibu."]


SENTENCE = "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, hivyo yapasa."


@pytest.mark.parametrize(
    ("content", "unit", "count"),
    [
        (PLAIN, "paragraph", 3),
        ((SENTENCE + "\n") * 50, "line", 50),
        ("kuku\nmbuzi\n" * 50, "file", 1),
        (SENTENCE, "file", 1),
        ("\n\n" + SENTENCE + "\n\n", "file", 1),
        ((SENTENCE + "\n") * 300 + "\n" + SENTENCE + "\n", "line", 301),
        ("\n\n".join([SENTENCE] * 9), "paragraph", 9),
    ],
)
def test_the_unit_is_guessed(tmp_path: Path, content: str, unit: str, count: int):
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    assert guess_unit(path) == unit
    assert len(list(read_documents([path]))) == count


def test_a_line_of_spaces_is_blank(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("\n  \t\n".join(DOCUMENTS) + "\n \n", encoding="utf-8")
    assert list(read_documents([path])) == DOCUMENTS


def test_a_dataset_of_the_hub_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch):
    rows = [{"body": "Cafe\u0301"}, {"body": None}, {"body": "x" * 60_000}]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_: rows if name == "owner/name" else 1 / 0)
    (found,) = entries([("hf:owner/name", Path("hf:owner/name"))], "body", None)
    assert [len(text) for text in found.documents()] == [4, 50_000, 10_000]
    with pytest.raises(MissingInputError, match="owner/other: cannot be read: ZeroDivisionError"):
        list(entries([("hf:owner/other", Path("."))], "body", None)[0].documents())


def test_a_book_without_a_blank_line_comes_in_parts(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("kuku na mbuzi\n" * 20_000, encoding="utf-8")
    parts = list(read_documents([path], unit="file"))
    assert "\n".join(parts) == path.read_text().rstrip("\n") and max(map(len, parts)) <= 50_000 + 14


@given(st.text("ab \n", max_size=400), st.integers(2, 40))
def test_cutting_loses_nothing_but_line_ends(document: str, longest: int):
    parts = list(cut(document, longest))
    assert all(len(part) <= longest for part in parts)
    assert "".join(parts).replace("\n", "") == document.replace("\n", "")
    if len(document) <= longest:
        assert parts in ([document], [])


def test_cutting_prefers_line_ends_then_spaces():
    assert list(cut("aaaaa\nbbb bb\ncccc", 8)) == ["aaaaa", "bbb bb", "cccc"]
    assert list(cut("aaaa bbbb cccc", 8)) == ["aaaa ", "bbbb ", "cccc"]
    assert list(cut("a" * 20, 8)) == ["a" * 8, "a" * 8, "a" * 4]


class TestSources:
    def named(self, *paths: Path, unit: str | None = None) -> list:
        return entries([(path.name, path) for path in paths], "text", unit)

    def test_a_folder_of_articles(self, tmp_path: Path):
        for i in range(12):
            (tmp_path / f"{i:02}.txt").write_text(f"{SENTENCE}\n\n{SENTENCE} {i}\n")
        (tmp_path / "scan.pdf").write_text("%PDF")
        (tmp_path / ".hidden").write_text("x")
        (found,) = self.named(tmp_path)
        assert found.unit == "file" and len(list(found.documents())) == 12
        assert "12 files, one document a file" in found.told() and "passed over: 1 .pdf" in found.told()

    def test_few_or_large_files_keep_their_paragraphs(self, tmp_path: Path):
        (tmp_path / "sub").mkdir()
        for name in ("a.txt", "sub/b.txt"):
            (tmp_path / name).write_text(f"{SENTENCE}\n\n{SENTENCE}\n")
        (found,) = self.named(tmp_path)
        assert found.unit == "paragraph" and len(list(found.documents())) == 4
        (found,) = self.named(tmp_path, unit="file")
        assert len(list(found.documents())) == 2

    def test_a_pattern(self, tmp_path: Path):
        for name in ("a.txt", "b.txt", "c.jsonl"):
            (tmp_path / name).write_text(json_lines() if name == "c.jsonl" else PLAIN)
        (found,) = self.named(tmp_path / "*.txt")
        assert [path.name for path in found.files] == ["a.txt", "b.txt"]
        with pytest.raises(MissingInputError, match="no file is called like this"):
            self.named(tmp_path / "*.text")

    def test_a_folder_without_text(self, tmp_path: Path):
        (tmp_path / "a.pdf").write_text("%PDF")
        with pytest.raises(DataError, match=r"no text file in this folder, only 1 \.pdf"):
            self.named(tmp_path)
