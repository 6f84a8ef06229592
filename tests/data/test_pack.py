"""Packing, batches and positions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prealign_cpt.data.batches import Mixture, PackedText, permuted, positions
from prealign_cpt.data.codeswitch import Switcher
from prealign_cpt.data.pack import encode, pack
from prealign_cpt.data.text import read_documents
from prealign_cpt.errors import DataError, MissingInputError
from prealign_cpt.lexicon.pairs import Pair
from tests.conftest import ENGLISH, PAIRS, START


def test_rows_are_the_documents_end_to_end(tmp_path: Path, tokenizer):
    start = tokenizer.convert_tokens_to_ids(START)
    counts = pack(ENGLISH, tokenizer, start, 16, tmp_path / "english")
    stream = [i for ids in encode(ENGLISH, tokenizer) for i in [start, *ids.tolist()]]
    packed = PackedText(tmp_path / "english")
    assert packed.inputs.ravel().tolist() == stream[: len(packed) * 16]
    assert counts == {
        "documents": 5, "tokens": len(stream), "sequences": len(stream) // 16, "dropped_tokens": len(stream) % 16,
    }  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["english.inputs.npy"]


def test_switching_ratio_zero_packs_the_same_bytes(tmp_path: Path, tokenizer):
    switcher = Switcher(tokenizer, [Pair(s, t) for s, t in PAIRS], 0.0)
    pack(ENGLISH, tokenizer, 0, 16, tmp_path / "plain")
    pack(ENGLISH, tokenizer, 0, 16, tmp_path / "switched", lambda ids, n: switcher.switch(ids, 1, 0, n))
    plain, switched = PackedText(tmp_path / "plain"), PackedText(tmp_path / "switched")
    assert np.array_equal(plain.inputs, switched.inputs) and np.array_equal(plain.inputs, switched.labels)


def test_text_that_looks_like_the_start_token_is_text(tokenizer):
    ids = next(iter(encode([f"a {START} b"], tokenizer)))
    assert tokenizer.convert_tokens_to_ids(START) not in ids
    assert tokenizer.decode(ids) == f"a {START} b"


def test_too_little_text_is_refused(tmp_path: Path, tokenizer):
    with pytest.raises(DataError, match=r"do not fill one sequence of 4096.*data\.sequence_length"):
        pack(ENGLISH, tokenizer, 0, 4096, tmp_path / "english")
    assert not list(tmp_path.iterdir())


def test_positions_restart_at_documents():
    inputs = torch.tensor([[5, 6, 0, 7, 8, 0, 9], [0, 1, 2, 3, 4, 5, 6]])
    assert positions(inputs, 0).tolist() == [[0, 1, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6]]


@given(count=st.integers(1, 300), seed=st.integers(0, 1000), epoch=st.integers(0, 5))
def test_permutation_is_one(count: int, seed: int, epoch: int):
    assert sorted(permuted(k, count, seed, epoch) for k in range(count)) == list(range(count))


class Rows:
    """Stands in for packed text where only its length matters."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def test_mixture_keeps_the_share_and_covers_every_row():
    mixture = Mixture(Rows(30), Rows(7), 0.25, seed=3)
    places = [mixture.locate(n) for n in range(40)]
    assert sum(name == "english" for name, _ in places) == 10
    assert sorted(row for name, row in places if name == "target") == list(range(30))
    assert sorted(row for name, row in places[:28] if name == "english") == list(range(7))
    for n in range(4, 41):
        share = sum(name == "english" for name, _ in places[:n]) / n
        assert abs(share - 0.25) <= 1 / n


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
        ("a.txt", b"gut\nGr\xfc\xdfe\n", r"a\.txt:2: not UTF-8 at byte 6"),
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
    for path in (tmp_path / "nothing.txt", tmp_path):
        with pytest.raises(MissingInputError, match="prealign fetch"):
            list(read_documents([path]))
