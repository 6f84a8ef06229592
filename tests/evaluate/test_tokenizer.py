"""The tokenizer's figures on texts whose tokens can be counted by hand."""

from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.tokenizer import measure, partial, words_of
from tests.conftest import ENGLISH, TARGET, make_model, make_tokenizer


def save(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> EvaluationData:
    for name, documents in (("target", TARGET), ("english", ENGLISH)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    pairs = zip(ENGLISH, TARGET, strict=True)
    lines = (f"{a}\t{b}".replace("\n", " ") for a, b in pairs)
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return EvaluationData(
        target=(("test", tmp_path / "target.txt"),),
        english=(("test", tmp_path / "english.txt"),),
        parallel=tmp_path / "pairs.tsv",
    )


def test_by_hand(tmp_path: Path, base_folder: Path):
    """A tokenizer that has learned nothing has one token a byte."""
    text = "Käse und Käse"
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    subject = Subject(save(tmp_path / "bytes", make_tokenizer(["a"], 257)), device="cpu")
    result = measure(subject, EvaluationData(target=(("test", tmp_path / "t.txt"),)))
    bytes_ = len(text.encode())
    value = {
        name.removeprefix("target/test/"): one.value for name, one in result.items() if not isinstance(one, Absent)
    }
    assert value == {
        "fertility": bytes_ / 3,
        "bytes_per_token": 1.0,
        "chars_per_token": len(text) / bytes_,
        "byte_fallback": 4 / bytes_,
        "unknown": 0.0,
        "round_trip": 1.0,
        "continued_words": 1.0,
        "single_token_words": 0.0,
    }
    assert result["parity"] == Absent("no local data: no parallel text; give it with --parallel")
    assert isinstance(result["english/fertility"], Absent)


def test_a_tokenizer_of_the_language_beside_the_base(tmp_path: Path, base_folder: Path, data: EvaluationData):
    grown = make_tokenizer((ENGLISH + TARGET) * 4, 700)
    subject = Subject(save(tmp_path / "grown", grown), device="cpu", base=base_folder)
    result = measure(subject, data)
    assert result["target/test/fertility"].value < result["base/target/test/fertility"].value
    assert result["target/test/bytes_per_token"].value > result["base/target/test/bytes_per_token"].value
    assert result["target/test/single_token_words"].value > result["base/target/test/single_token_words"].value
    assert result["parity"].value < result["base/parity"].value
    encode = lambda text: len(grown.encode(text, add_special_tokens=False))  # noqa: E731
    english, target = ([text.replace("\n", " ") for text in texts] for texts in (ENGLISH, TARGET))
    assert result["parity"].value == pytest.approx(sum(map(encode, target)) / sum(map(encode, english)))
    assert result["target/test/round_trip"].value == 1.0
    assert result["english/test/same_as_base"].value < 1.0, "it was learned anew, not grown"


def test_the_base_cuts_english_as_the_base_does(base_folder: Path, data: EvaluationData):
    result = measure(Subject(base_folder, device="cpu", base=base_folder), data)
    assert result["english/test/same_as_base"].value == 1.0


def test_a_lossy_tokenizer_is_found_out(tmp_path: Path, data: EvaluationData):
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    result = measure(Subject(save(tmp_path / "lossy", tokenizer), device="cpu"), data)
    assert result["target/test/round_trip"].value == 0.0


def test_words_by_unicode():
    assert words_of("Das ist's: 3.14 Euro, z.B.!") == ["Das", "ist's", "3.14", "Euro", "z.B"]
    assert words_of("हिन्दी में है।") == ["हिन्दी", "में", "है"], "marks are part of a word"


@pytest.mark.parametrize(
    ("token", "byte_level", "is_partial"),
    [("Ã", True, True), ("Ã¤", True, False), ("Ġa", True, False), ("Ġ", True, False), ("a", True, False),
     ("<0xC3>", False, True), ("▁Haus", False, False), ("<0xC3>", True, False)],
)  # fmt: skip
def test_tokens_that_are_no_whole_characters(token: str, byte_level: bool, is_partial: bool):
    assert partial(token, byte_level) == is_partial
