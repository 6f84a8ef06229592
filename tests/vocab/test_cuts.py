"""Words that pre-tokenizers cut at their marks, and patterns that do not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, Qwen2Tokenizer

from prealign_cpt.vocab.cuts import CUT_SHARE, GPT2, is_recut, measure_cuts, whole_words
from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer

from .conftest import ENGLISH, LLAMA3, SPECIAL, TARGET, byte_level

SCRIPTS = ["Arabic", "Devanagari", "Thai"]


def backend(*stages: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(stages)) if len(stages) > 1 else stages[0]
    return tokenizer


BASES = {
    "gpt2": backend(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": backend(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": backend(
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ),
}


def changed(old: Tokenizer, scripts: list[str] = SCRIPTS) -> Tokenizer:
    content = whole_words(json.loads(old.to_str()), scripts)
    assert content is not None
    return Tokenizer.from_str(json.dumps(content))


def cut(tokenizer: Tokenizer, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("kind", BASES)
def test_words_of_the_scripts_are_whole_and_no_others(kind: str) -> None:
    text = "मैं हिन्दी क्\u200dष, العَرَبِيَّةُ ไทยดี! עִבְרִית x2"
    old, new = cut(BASES[kind], text), cut(changed(BASES[kind]), text)
    assert {" ", " हिन्दी"} & set(old) == set() or " हिन्दी" not in old
    assert {"मैं", " हिन्दी", " क्\u200dष", " العَرَبِيَّةُ", " ไทยดี"} <= set(new)
    at = text.index(" ע")
    assert [part for part in new if part in cut(BASES[kind], text[at:])][-6:] == cut(BASES[kind], text[at:])[-6:]


@pytest.mark.parametrize("kind", BASES)
@settings(max_examples=300, deadline=None)
@given(
    text=st.text(
        st.sampled_from("aZé ß'sdt1٣.,\n\r\t-\u0301\u200d\ufe0fאֵ漢かकि\u0e01ع") | st.characters(codec="utf-8"),
        max_size=30,
    )
)
def test_a_text_without_marked_letters_of_the_scripts_is_cut_as_before(kind: str, text: str) -> None:
    old = BASES[kind]
    recut = is_recut(old, changed(old), text, SCRIPTS)  # raises where the text gives no reason
    assert not recut or any("\u0600" <= character <= "\u0e7f" for character in text)
    assert "".join(cut(changed(old), text)) == text


@given(text=st.text(st.sampled_from("ab éß's1.,\n\r \t-\u00a0\u3000"), max_size=30))
def test_the_pattern_of_bytelevel_is_ours(text: str) -> None:
    ours = backend(
        pre_tokenizers.Split(Regex(GPT2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    )
    assert cut(ours, text) == cut(BASES["gpt2"], text)


def test_what_is_measured() -> None:
    cuts = measure_cuts(BASES["gpt2"], ["कि मन abc, de'f", "हिन्दी"])
    # "कि" is "क", "ि" and "हिन्दी" is "ह", "ि", "न", "्", "द", "ी"; an apostrophe is in no word.
    assert (cuts.words, cuts.cut, cuts.parts) == (6, 2, 1 * 4 + 2 + 6)
    assert cuts.by_script == {"Devanagari": (3, 2)} and cuts.scripts == ["Devanagari"]
    assert measure_cuts(changed(BASES["gpt2"]), TARGET["hindi"]).cut == measure_cuts(BASES["gpt2"], ENGLISH).cut == 0


def test_few_cut_words_change_nothing() -> None:
    words = ["كتاب"] * round(10 / CUT_SHARE)
    cuts = measure_cuts(BASES["llama3"], [" ".join([*words, *["أيضًا"] * 9])])
    assert cuts.cut == 9 and cuts.scripts == []


@pytest.mark.parametrize(
    "stages",
    [
        [pre_tokenizers.ByteLevel(add_prefix_space=True)],
        [pre_tokenizers.Split(Regex(r"[\p{L}\p{M}]+|\s+"), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)],
    ],
)
def test_other_kinds_are_left_alone(stages: list[Any]) -> None:
    assert whole_words(json.loads(backend(*stages).to_str()), SCRIPTS) is None


@pytest.mark.parametrize(("model_type", "kept"), [("llama", True), ("qwen3", True), ("qwen2", False)])
def test_a_changed_one_is_made_only_where_it_is_read_back(model_type: str, kept: bool, tmp_path: Path) -> None:
    """transformers 5 builds the pre-tokenizer of some model types itself; what is trained and served must be one."""
    base = byte_level(tmp_path / "base", llama3=True)
    AutoConfig.for_model(model_type).save_pretrained(base)
    if model_type != "llama":
        tokenizer = Qwen2Tokenizer.from_pretrained(base, eos_token=SPECIAL, pad_token=SPECIAL, unk_token=None)
        tokenizer.save_pretrained(base)
    growth = grow_tokenizer(base, TARGET["hindi"], ENGLISH, 40, tmp_path / "out")
    assert growth.scripts == (("Devanagari",) if kept else ()) and growth.cuts and growth.cuts.cut
    text = TARGET["hindi"][0]
    alone = load_tokenizer(tmp_path / "out").encode(text, add_special_tokens=False)
    AutoConfig.for_model(model_type).save_pretrained(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").encode(text, add_special_tokens=False) == alone
