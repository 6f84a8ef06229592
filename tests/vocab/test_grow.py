"""Growing whole tokenizers of each family, in three scripts, and looking at them as they load."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prealign_cpt.model.tokens import encode_text
from prealign_cpt.run.errors import MissingInputError, RecipeError, StorageError
from prealign_cpt.vocab.build import tokenizer_report
from prealign_cpt.vocab.grow import Growth, grow_tokenizer, load_tokenizer, unreachable

from .conftest import ENGLISH, SPECIAL, TARGET

CASES = [(family, language) for family in ("bytelevel", "llama3", "spm") for language in TARGET]
Grown = tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast, Growth, str, Path]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def grown(request: pytest.FixtureRequest, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Grown:
    family, language = request.param
    out = tmp_path_factory.mktemp("grown") / "out"
    growth = grow_tokenizer(bases[family], TARGET[language], ENGLISH, 60, out)
    return load_tokenizer(bases[family]), load_tokenizer(out), growth, language, out


def test_old_ids_stay_and_new_ones_follow(grown: Grown) -> None:
    base, new, growth, _, _ = grown
    assert growth.first_id == len(base)
    assert [token.id for token in growth.tokens] == list(range(len(base), len(new)))
    assert len(growth.tokens) > 20
    vocab = new.get_vocab()
    assert {token: vocab[token] for token in base.get_vocab()} == base.get_vocab()
    assert new.all_special_ids == base.all_special_ids
    assert new.chat_template == base.chat_template


def test_words_are_looked_up_only_where_transformers_does_it_too(bases: dict[str, Path], tmp_path: Path) -> None:
    """A Qwen2Tokenizer is built anew from vocabulary and merges, and would never find a word without merges."""
    base = tmp_path / "base"
    load_tokenizer(bases["bytelevel"]).save_pretrained(base)
    texts = next(iter(TARGET.values()))
    assert grow_tokenizer(base, texts, ENGLISH, 20, tmp_path / "words", "auto").words
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}))
    assert not grow_tokenizer(base, texts, ENGLISH, 20, tmp_path / "merges", "auto").words
    with pytest.raises(RecipeError, match='cannot look whole words up; choose "merges"'):
        grow_tokenizer(base, texts, ENGLISH, 20, tmp_path / "never", "words")


def test_every_new_token_is_reachable(grown: Grown) -> None:
    _, new, growth, language, _ = grown
    assert not unreachable(new, [token.id for token in growth.tokens], TARGET[language])


def test_a_token_decodes_to_its_text_and_is_made_of_its_parts(grown: Grown) -> None:
    _, new, growth, _, _ = grown
    names = new.convert_ids_to_tokens(list(range(len(new))))
    for token in growth.tokens:
        assert "\ufffd" in token.text or new.decode([growth.first_id - 1, token.id]).endswith(token.text)
        if token.left is not None and token.right is not None:
            assert names[token.left] + names[token.right] == names[token.id]


def test_guarded_english_is_tokenized_as_before(grown: Grown) -> None:
    base, new, _, _, _ = grown
    words = [word for line in ENGLISH for word in line.split()]
    for text in [*ENGLISH, *words, *map(str.upper, words), *map(str.title, ENGLISH)]:
        assert encode_text(new, text) == encode_text(base, text)


def test_report(grown: Grown) -> None:
    base, new, growth, language, _ = grown
    report = tokenizer_report(base, new, TARGET[language], ENGLISH, [token.id for token in growth.tokens])
    assert report["fertility_after"] < report["fertility_before"]
    assert report["bytes_per_token_after"] > report["bytes_per_token_before"]
    assert report["english_lines_changed"] == report["unreachable"] == report["round_trip_failures"] == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40).filter(lambda text: "\u2581" not in text))  # U+2581 is SentencePiece's space
def test_round_trip(grown: Grown, text: str) -> None:
    base, new, _, _, _ = grown
    back = new.decode(encode_text(new, text), clean_up_tokenization_spaces=False)
    assert back == base.decode(encode_text(base, text), clean_up_tokenization_spaces=False)
    if not ("▁" in base.get_vocab() and text.startswith(" ")):  # the base itself drops such a space
        assert back == text


def test_the_spelling_of_a_special_token_is_text(grown: Grown) -> None:
    _, new, _, _, _ = grown
    for special in ("</s>", SPECIAL):
        ids = encode_text(new, f"a {special} b")
        assert not set(ids) & set(new.all_special_ids)
        assert new.decode(ids) == f"a {special} b"


def test_sentencepiece_and_hugging_face_agree(grown: Grown) -> None:
    _, new, _, language, out = grown
    if not (out / "tokenizer.model").exists():
        pytest.skip("no tokenizer.model in this family")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    assert processor.vocab_size() == len(new)
    words = [word for sentence in TARGET[language] for word in sentence.split()]
    for text in [*TARGET[language], *ENGLISH, *words, *map("".join, pairwise(words)), "日本 ü"]:
        assert processor.encode(text) == encode_text(new, text)


def test_the_same_text_gives_the_same_tokenizer(bases: dict[str, Path], tmp_path: Path) -> None:
    first = grow_tokenizer(bases["spm"], TARGET["german"], ENGLISH, 30, tmp_path / "a")
    second = grow_tokenizer(bases["spm"], reversed(TARGET["german"]), ENGLISH, 30, tmp_path / "b")
    assert first == second
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_growing_twice(bases: dict[str, Path], tmp_path: Path) -> None:
    for family in bases:
        once, twice = tmp_path / f"{family}1", tmp_path / f"{family}2"
        first = grow_tokenizer(bases[family], TARGET["german"], ENGLISH, 20, once)
        second = grow_tokenizer(once, TARGET["russian"], ENGLISH + TARGET["german"], 20, twice)
        assert second.first_id == first.first_id + len(first.tokens)
        for sentence in TARGET["german"]:
            assert encode_text(load_tokenizer(twice), sentence) == encode_text(load_tokenizer(once), sentence)


@pytest.mark.parametrize("family", ["bytelevel", "llama3", "spm"])
def test_size_zero_copies(family: str, bases: dict[str, Path], tmp_path: Path) -> None:
    growth = grow_tokenizer(bases[family], TARGET["german"], ENGLISH, 0, tmp_path / "out")
    base, new = load_tokenizer(bases[family]), load_tokenizer(tmp_path / "out")
    assert growth == Growth(len(base), [])
    assert new.get_vocab() == base.get_vocab()
    assert all(encode_text(new, text) == encode_text(base, text) for text in TARGET["german"] + ENGLISH)


def test_added_tokens_that_sentencepiece_does_not_know(bases: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(bases["spm"])
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.model").write_bytes((bases["spm"] / "tokenizer.model").read_bytes())
    growth = grow_tokenizer(tmp_path / "base", TARGET["hindi"], ENGLISH, 40, tmp_path / "out")
    new = load_tokenizer(tmp_path / "out")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "tokenizer.model"))
    assert growth.first_id == len(tokenizer) and processor.id_to_piece(growth.first_id - 1) == "<pad>"
    assert all(processor.encode(text) == encode_text(new, text) for text in TARGET["hindi"])


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    for model, name in (
        (models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0), "Unigram"),
        (models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "WordPiece"),
        (models.BPE({"a": 0}, []), "BPE"),
    ):
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        folder = tmp_path / name
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
        with pytest.raises(RecipeError, match=name):
            grow_tokenizer(folder, ["a"], ["a"], 1, tmp_path / "out")
        assert grow_tokenizer(folder, ["a"], ["a"], 0, tmp_path / f"{name}-copy").tokens == []


def test_user_errors(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="negative"):
        grow_tokenizer(bases["spm"], [], [], -1, tmp_path / "out")
    with pytest.raises(MissingInputError, match="no such folder"):
        grow_tokenizer(tmp_path / "none", [], [], 1, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match=r"no tokenizer can be read .*; add its tokenizer\.json$"):
        grow_tokenizer(tmp_path / "empty", [], [], 1, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(StorageError, match="not empty"):
        grow_tokenizer(bases["spm"], [], [], 1, tmp_path / "full")
