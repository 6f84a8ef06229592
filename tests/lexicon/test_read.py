"""Word lists in all formats, and what is said of bad ones."""

import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prealign_cpt.lexicon.clean import clean
from prealign_cpt.lexicon.pairs import COLUMNS, NO_PROBABILITY, Row, read_muse, read_tsv
from prealign_cpt.run.errors import DataError, MissingInputError, PrealignError
from prealign_cpt.text.lines import LINE_LIMIT, read_lines


def written(folder: Path, content: bytes) -> Path:
    path = folder / "lexicon.tsv"
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_dropped_at_the_start_only(tmp_path: Path) -> None:
    rows = list(read_tsv(written(tmp_path, b"\xef\xbb\xbfgo\tgehen\n\xef\xbb\xbfrun\tlaufen\n")))
    assert rows == [Row(1, "go", "gehen"), Row(2, "\ufeffrun", "laufen")]


def test_lines_end_at_line_feeds_and_one_carriage_return_before_them_goes(tmp_path: Path) -> None:
    text = "a\tb\r\nc\td\r\r\ne\tf\rg\nh\ti\u2028j\x0bk\x0cl\x1cm\x85n\u2029o\np\tq"
    rows = list(read_tsv(written(tmp_path, text.encode())))
    assert [row.target for row in rows] == ["b", "d\r", "f\rg", "i\u2028j\x0bk\x0cl\x1cm\x85n\u2029o", "q"]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("a\tb\nlaufen\tl\xe4uft\n".encode("latin-1"), r":2: not UTF-8 at byte offset 12"),
        (b"\xef\xbb\xbfa\tb\xff\n", r":1: not UTF-8 at byte offset 6"),
        ("a\tb\n".encode("utf-16"), r":1: UTF-16 \(mark at byte offset 0"),
        (b"\xfe\xff\0a\0\t\0b", r":1: UTF-16"),
        (b"a\t\xed\xa0\x80\n", r":1: not UTF-8 at byte offset 2"),
    ],
)
def test_other_encodings_are_an_error_with_line_and_offset(tmp_path: Path, content: bytes, place: str) -> None:
    with pytest.raises(DataError, match=place):
        list(read_tsv(written(tmp_path, content)))


def test_utf16_without_a_mark_is_malformed(tmp_path: Path) -> None:
    path = written(tmp_path, "go\tgehen\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r":1: "):
        clean(read_tsv(path), str(path))


def test_a_line_is_never_longer_than_the_limit(tmp_path: Path) -> None:
    fits = b"a\t" + b"b" * (LINE_LIMIT - 3) + b"\n"
    assert len(list(read_tsv(written(tmp_path, fits)))) == 1
    path = written(tmp_path, b"x\ty\n")
    os.truncate(path, 50_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=rf":2: line longer than {LINE_LIMIT} bytes"):
        list(read_tsv(path))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_only_regular_files_with_content_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path, fifo, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(DataError, match="not a regular file"):
            list(read_tsv(path))
    for path in (tmp_path / "missing", loop):
        with pytest.raises(MissingInputError, match=path.name):
            list(read_tsv(path))
    with pytest.raises(DataError, match="empty"):
        list(read_tsv(written(tmp_path, b"")))


def test_tsv_knows_two_columns_and_comments(tmp_path: Path) -> None:
    rows = list(read_tsv(written(tmp_path, b"# x\ty\n\na\tb\na\tb\tc\na b\na\tb\t\na\tb\t1e-3\na\tb\t1\t1\n")))
    assert rows == [
        Row(3, "a", "b"),
        Row(4, "a\tb\tc", "", NO_PROBABILITY),
        Row(5, "a b", "", COLUMNS),
        Row(6, "a\tb\t", "", NO_PROBABILITY),
        Row(7, "a", "b", "", 0.001),
        Row(8, "a\tb\t1\t1", "", COLUMNS),
    ]


def test_muse_splits_at_the_first_white_space(tmp_path: Path) -> None:
    content = "go gehen\nrun\tlaufen\nwalk \t zu Fuß gehen\nalone\nnew\u00a0york New York\n"
    rows = list(read_muse(written(tmp_path, content.encode())))
    assert rows == [
        Row(1, "go", "gehen"),
        Row(2, "run", "laufen"),
        Row(3, "walk", "zu Fuß gehen"),
        Row(4, "alone", "", COLUMNS),
        Row(5, "new\u00a0york", "New York"),
    ]


@settings(deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(content=b"\xef\xbb\xbf")
@example(content=b"\t\n")
def test_any_bytes_give_pairs_or_an_error_for_the_user(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), content)
        for reader in (read_tsv, read_muse):
            try:
                pairs, _ = clean(reader(path), str(path))
            except PrealignError as error:
                assert "\n" not in str(error)
            else:
                assert pairs


def test_numbers_count_every_line(tmp_path: Path) -> None:
    assert list(read_lines(written(tmp_path, b"a\n\nb"))) == [(1, "a"), (2, ""), (3, "b")]
