"""Packing, batches and positions."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from prealign_cpt.data.codeswitch import Switched, Switcher
from prealign_cpt.data.mixture import Mixture, PackedText, falling, permuted, positions
from prealign_cpt.data.pack import encode, encode_many, pack
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.run.errors import DataError, MissingInputError
from prealign_cpt.text.reader import read_documents
from tests.conftest import ENGLISH, PAIRS, START, TARGET

LEXICON = [Pair(s, t) for s, t in PAIRS]


def packed(folder: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Inputs and labels of all rows."""
    text = PackedText(folder)
    rows = [text.row(number) for number in range(len(text))]
    return np.stack([inputs for inputs, _ in rows]), np.stack([labels for _, labels in rows])


def plain(documents: list[str], tokenizer, start: int) -> Iterator[Switched]:
    return map(Switched.unchanged, encode_many(documents, tokenizer, start))


def test_rows_are_the_documents_end_to_end(tmp_path: Path, tokenizer):
    start = tokenizer.convert_tokens_to_ids(START)
    done = pack(plain(ENGLISH, tokenizer, start), 16, tmp_path / "0")
    stream = [i for ids in encode(ENGLISH, tokenizer) for i in [start, *ids.tolist()]]
    assert packed(tmp_path)[0].ravel().tolist() == stream[: done.sequences * 16]
    assert done.counts == {
        "documents": 5, "tokens": len(stream), "sequences": len(stream) // 16, "dropped_tokens": len(stream) % 16,
        "fill": 1.0,
    }  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.inputs.npy"]


@pytest.mark.parametrize("length", [1, 7, 64])
def test_rows_do_not_depend_on_pieces_or_when_they_are_written(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, length: int
):
    switcher = Switcher(tokenizer, LEXICON, 0.5)
    found = []
    for at_once in (1, 3, 256):
        monkeypatch.setattr("prealign_cpt.data.pack.DOCUMENTS_AT_ONCE", at_once)
        pieces, first = [], 0
        for documents in encode_many(ENGLISH * 100, tokenizer, 0):
            pieces.append(switcher.switch_many(documents, 4, 0, first))
            first += len(documents)
        folder = tmp_path / str(at_once)
        folder.mkdir()
        done = pack(pieces, length, folder / "0", with_labels=True)
        inputs, labels = packed(folder)
        assert inputs.shape == labels.shape == (done.sequences, length)
        assert done.sequences * length <= done.tokens < (done.sequences + 1) * length
        words = np.load(folder / "0.words.npy")
        found.append((inputs.tobytes(), labels.tobytes(), words[:, 0].tolist(), words[:, 1].tolist()))
    assert found[0] == found[1] == found[2]
    marks = np.concatenate([piece.marks for piece in pieces])[: done.sequences * length].reshape(-1, length)
    assert found[0][2:] == ((marks > 0).sum(1).tolist(), (marks == 2).sum(1).tolist())
    assert done.switched - words[:, 1].sum() <= length and 0 < done.switched < done.words


def test_switching_ratio_zero_packs_the_same_bytes(tmp_path: Path, tokenizer):
    switcher = Switcher(tokenizer, LEXICON, 0.0)
    for name in ("plain", "switched"):
        (tmp_path / name).mkdir()
    pack(plain(ENGLISH, tokenizer, 0), 16, tmp_path / "plain/0")
    switched_pieces = (switcher.switch_many(documents, 1, 0, 0) for documents in encode_many(ENGLISH, tokenizer, 0))
    pack(switched_pieces, 16, tmp_path / "switched/0", with_labels=True)
    (unswitched, _), (inputs, labels) = packed(tmp_path / "plain"), packed(tmp_path / "switched")
    assert np.array_equal(unswitched, inputs) and np.array_equal(unswitched, labels)


def test_text_that_looks_like_the_start_token_is_text(tokenizer):
    ids = next(iter(encode([f"a {START} b"], tokenizer)))
    assert tokenizer.convert_tokens_to_ids(START) not in ids
    assert tokenizer.decode(ids) == f"a {START} b"


def test_shards_are_one_text_and_one_may_be_too_short(tmp_path: Path, tokenizer):
    counts = [
        pack(plain(texts, tokenizer, 0), 16, tmp_path / str(i)) for i, texts in enumerate((ENGLISH, ["a"], TARGET))
    ]
    whole = counts[0] + counts[1] + counts[2]
    assert counts[1].sequences == 0 < counts[2].sequences and whole.documents == 11 and whole.length == 16
    rows = np.concatenate([np.load(tmp_path / f"{i}.inputs.npy") for i in range(3)])
    assert np.array_equal(packed(tmp_path)[0], rows) and len(rows) == whole.sequences


def test_a_text_of_many_shards_keeps_few_of_them_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prealign_cpt.data.mixture.OPEN_SHARDS", 4)
    for i in range(40):
        np.save(tmp_path / f"{i:05}.inputs.npy", np.full((2, 3), i, dtype=np.int32))
    before, text = len(os.listdir("/proc/self/fd")), PackedText(tmp_path)
    assert [int(text.row(k)[0][0]) for k in range(80)] == [k // 2 for k in range(80)]
    assert len(os.listdir("/proc/self/fd")) - before <= 4


def test_positions_restart_at_documents():
    inputs = torch.tensor([[5, 6, 0, 7, 8, 0, 9], [0, 1, 2, 3, 4, 5, 6]])
    assert positions(inputs, 0).tolist() == [[0, 1, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6]]


@given(count=st.integers(1, 300), seed=st.integers(0, 1000), epoch=st.integers(0, 5))
def test_permutation_is_one(count: int, seed: int, epoch: int):
    assert sorted(permuted(k, count, seed, epoch) for k in range(count)) == list(range(count))


def test_permutations_look_drawn():
    """Neighbours end up far apart in every order of 4,000 rows: the mean distance of drawn ones is a third of the
    length, with a deviation of 0.4 % of it."""
    for seed in range(40):
        order = np.array([permuted(k, 4000, seed, 0) for k in range(4000)])
        assert abs(np.abs(np.diff(order)).mean() / 4000 - 1 / 3) < 0.02
        assert abs(np.corrcoef(order, np.arange(4000))[0, 1]) < 0.1


class Rows:
    """Stands in for packed text where only its length matters."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6), count=st.integers(1, 400))
def test_sources_take_turns_by_their_weights(weights: list[float], count: int):
    mixture = Mixture([Rows(50) for _ in weights], [], 0.0, 1, weights={"target": weights})
    found = [mixture.locate(n) for n in range(count)]
    for i, weight in enumerate(weights):
        taken = sum(source == i for _, source, _ in found)
        assert abs(taken - count * weight / sum(weights)) <= len(weights)
        rows = [row for _, source, row in found if source == i][:50]
        assert len(set(rows)) == len(rows), "no row comes twice in a pass"


def test_mixture_keeps_the_share_and_covers_every_row():
    mixture = Mixture([Rows(30)], [Rows(7)], 0.25, seed=3)
    places = [mixture.locate(n) for n in range(40)]
    assert sum(name == "english" for name, _, _ in places) == 10
    assert sorted(row for name, _, row in places if name == "target") == list(range(30))
    assert sorted(row for name, _, row in places[:28] if name == "english") == list(range(7))
    for n in range(4, 41):
        share = sum(name == "english" for name, _, _ in places[:n]) / n
        assert abs(share - 0.25) <= 1 / n


def test_replay_falls_from_switched_to_plain():
    """80 of 320 sequences are replay; half of them are switched, in each tenth of the run as many as the line says."""
    mixture = Mixture([Rows(300)], [Rows(40)], 0.25, 3, [Rows(40)], total=320)
    places = [mixture.locate(n) for n in range(320)]
    replay = [place for place in places if place[0] != "target"]
    names = [name for name, _, _ in replay]
    assert names[:4] == ["english"] * 4 and names[-4:] == ["english_plain"] * 4
    assert names.count("english") == names.count("english_plain") == 40
    for k in range(1, 81):
        assert abs(names[:k].count("english") - (k - k * k / 160)) <= 0.5
    rows = {name: [row for kind, _, row in replay if kind == name] for name in set(names)}
    assert all(sorted(of) == list(range(40)) for of in rows.values())
    assert rows["english"] != rows["english_plain"]
    # The rest of the run is the one without a second text.
    other = Mixture([Rows(300)], [Rows(40)], 0.25, seed=3)
    assert [p for p in places if p[0] == "target"] == [p for p in map(other.locate, range(320)) if p[0] == "target"]


@given(total=st.integers(0, 400))
def test_falling_rises_by_one_at_most(total: int):
    counts = [falling(k, total) for k in range(total + 5)]
    assert counts[0] == 0 and all(b - a in (0, 1) for a, b in pairwise(counts))
    assert counts[-1] == counts[total] == (total + 1) // 2


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_the_same_batches(tmp_path: Path, falls: bool, ranks: int):
    for name, count in (("target", 9), ("english", 5), ("english_plain", 4)):
        (tmp_path / name).mkdir()
        np.save(
            tmp_path / f"{name}/0.inputs.npy",
            np.random.default_rng(count).integers(99, size=(count, 6), dtype=np.int32),
        )
    texts = {name: PackedText(tmp_path / name) for name in ("target", "english", "english_plain")}
    plain_text = [texts["english_plain"]] if falls else []

    def mixture() -> Mixture:
        return Mixture([texts["target"]], [texts["english"]], 0.4, 1, plain_text, total=48)

    whole, _ = mixture().rows(list(range(48)))
    for step in range(4):
        batch = torch.empty(12, 6, dtype=torch.int64)
        for rank in range(ranks):
            batch[rank::ranks], labels = mixture().rows(list(range(12 * step + rank, 12 * (step + 1), ranks)))
            assert torch.equal(batch[rank::ranks], labels)
        assert torch.equal(batch, whole[12 * step : 12 * (step + 1)])


def test_documents_of_plain_text_and_json_lines(tmp_path: Path):
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_bytes("\ufefferste Zeile\r\nzweite\n\n\n  \nla\u0308uft".encode())
    lines.write_text('{"text": "eins\\n\\nzwei", "id": 3}\n\n{"text": "drei"}\n', encoding="utf-8")
    assert list(read_documents([plain, lines])) == ["erste Zeile\nzweite", "läuft", "eins\n\nzwei", "drei"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no text in it"),
        ("a.txt", b"  \n \n", "no text in it"),
        ("a.txt", b"gut\nGr\xfc\xdfe\n", r"a\.txt:2: not UTF-8 at byte offset 6"),
        ("a.txt", b"\x7fELF\0\0", r"a\.txt:1: binary"),
        ("a.jsonl", b'{"text": "x"}\n{"texts": "x"}', r'a\.jsonl:2: not a JSON object with a "text" key'),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1: .*expected a string"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"a\.jsonl:1: a lone surrogate"),
        ("a.jsonl", b"[1", r"a\.jsonl:1: not a JSON object"),
    ],
)
def test_bad_text(tmp_path: Path, name: str, content: bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_documents([path]))


def test_missing_text_and_folder(tmp_path: Path):
    with pytest.raises(MissingInputError, match="prealign fetch"):
        list(read_documents([tmp_path / "nothing.txt"]))
    with pytest.raises(DataError, match="not a regular file"):
        list(read_documents([tmp_path]))
