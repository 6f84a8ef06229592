"""A small text of many scripts through each family of tokenizer: what every language has to have from an extension."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from prealign_cpt.data.codeswitch import Respeller, Switcher
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import encode_text
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.text.scripts import in_running_text, is_letters, is_unspaced
from prealign_cpt.vocab.build import _cuts, _line, tokenizer_report
from prealign_cpt.vocab.grow import Growth, grow_tokenizer, load_tokenizer

from .conftest import ENGLISH, TARGET

TEXTS = {
    "hindi": TARGET["hindi"],
    "thai": [
        "เด็กๆ เล่นอยู่ในสวนหลังบ้านทุกเย็น แม่ทำอาหารอยู่ในบ้าน",
        "ห้องสมุดอยู่ใกล้บ้านของเรา เด็กๆ อ่านหนังสือในห้องสมุด",
        "หนังสือเล่มนี้ดีมาก แม่ซื้อหนังสือให้เด็กๆ ทุกปี",
    ],
    "arabic": [
        "ذَهَبَ الوَلَدُ إِلَى المَدْرَسَةِ وَقَرَأَ الكِتَابَ فِي المَكْتَبَةِ.",
        "قَرَأَتِ البِنْتُ الكِتَابَ فِي البَيْتِ ثُمَّ ذَهَبَتْ إِلَى المَدْرَسَةِ.",
        "المَكْتَبَةُ قَرِيبَةٌ مِنَ البَيْتِ، وَالوَلَدُ يُحِبُّ الكِتَابَ.",
    ],
    "chinese": [
        "孩子们每天在图书馆看书，老师也在图书馆工作。",
        "我们家的房子在图书馆旁边，房子前面有一条河。",
        "老师说图书馆的书很多，孩子们喜欢看书。",
    ],
    "japanese": [
        "子供たちは図書館で本を読みます。先生も図書館で働いています。",
        "私の家は図書館の近くにあります。家の前に川があります。",
        "先生は子供たちに本を読みます。子供たちは先生が好きです。",
    ],
    "korean": [
        "아이들은 매일 도서관에서 책을 읽고 선생님은 도서관에서 일합니다.",
        "우리 집은 도서관 옆에 있고 집 앞에는 강이 있습니다.",
        "선생님은 아이들에게 책을 읽어 주고 아이들은 책을 좋아합니다.",
    ],
    "georgian": [
        "ბავშვები ბიბლიოთეკაში წიგნებს კითხულობენ და მასწავლებელი სახლში მუშაობს.",
        "ჩვენი სახლი ბიბლიოთეკასთან ახლოს არის, სახლის წინ მდინარეა.",
        "მასწავლებელი ბავშვებს წიგნებს უკითხავს, ბავშვები წიგნებს კითხულობენ.",
    ],
    "amharic": [
        "ልጆች በቤተ መጻሕፍት ውስጥ መጽሐፍ ያነባሉ፤ መምህሩም በቤት ውስጥ ይሠራል።",
        "ቤታችን በቤተ መጻሕፍት አጠገብ ነው፤ በቤት ፊት ወንዝ አለ።",
        "መምህሩ ለልጆች መጽሐፍ ያነባል፤ ልጆች መጽሐፍ ይወዳሉ።",
    ],
    "vietnamese": [
        "Trẻ em đọc sách trong thư viện mỗi ngày, cô giáo cũng làm việc trong thư viện.",
        "Nhà của chúng tôi ở gần thư viện, trước nhà có một con sông.",
        "Cô giáo đọc sách cho trẻ em, và trẻ em thích đọc sách trong nhà.",
    ],
}
CUT = {"hindi": "Devanagari", "thai": "Thai", "arabic": "Arabic"}
"""Languages whose words byte-level bases cut at marks, and their scripts."""

CASES = [(family, language) for family in ("bytelevel", "llama3", "spm") for language in TEXTS]
Grown = tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast, Growth, str, str]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def grown(request: pytest.FixtureRequest, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Grown:
    family, language = request.param
    out = tmp_path_factory.mktemp("grown") / "out"
    growth = grow_tokenizer(bases[family], TEXTS[language] * 2, ENGLISH, 60, out)
    return load_tokenizer(bases[family]), load_tokenizer(out), growth, family, language


def test_pieces_are_made_and_text_comes_back(grown: Grown) -> None:
    base, new, growth, family, language = grown
    assert len(growth.tokens) == 60
    report = tokenizer_report(base, new, TEXTS[language], ENGLISH, [token.id for token in growth.tokens])
    assert report["round_trip_failures"] == report["unreachable"] == report["english_lines_changed"] == 0
    assert report["bytes_per_token_after"] > 1.5 * report["bytes_per_token_before"]
    assert growth.scripts == ((CUT[language],) if language in CUT and family != "spm" else ()) and not growth.recut


def test_english_keeps_its_ids(grown: Grown) -> None:
    base, new, _, _, _ = grown
    unseen = "Don't cut café au lait, e\u0301tudes or 1,234.56: they've 'quoted'\r\n\tit.  OK\u200d!"
    for text in [*ENGLISH, *" ".join(ENGLISH).upper().split(), unseen]:
        assert encode_text(new, text) == encode_text(base, text)


def test_switching_and_word_vectors_meet_the_new_tokens(grown: Grown) -> None:
    _, new, growth, _, _ = grown
    words = []
    for token in growth.tokens:
        word = token.text.removeprefix(" ")
        if is_letters(word) and token.text == in_running_text(word) and (len(word) < 4 or not is_unspaced(word)):
            words.append(token)
    assert words
    for token in sorted(words, key=lambda token: -len(token.text))[:5]:
        word = token.text.removeprefix(" ")
        assert encode_words(new, [word]) == [[token.id]]
        before = encode_text(new, "In the")
        ids = np.array(encode_text(new, "In the garden"), dtype=np.int32)
        done = Switcher(new, [Pair("garden", word)], 1.0).switch(ids, 0, 0, 0)
        assert done.switched == 1 and done.inputs.tolist() == [*before, token.id]
        done = Switcher(new, [Pair("garden", word)], 1.0).switch(np.array(encode_text(new, "\ngarden")), 0, 0, 0)
        assert done.switched == 1 or not is_unspaced(word)


@pytest.mark.parametrize("language", ["hindi", "arabic"])
@pytest.mark.parametrize("family", ["bytelevel", "llama3"])
def test_whole_words_with_marks(family: str, language: str, bases: dict[str, Path], tmp_path: Path) -> None:
    growth = grow_tokenizer(bases[family], TEXTS[language] * 3, ENGLISH, 15, tmp_path / "out", "auto")
    new = load_tokenizer(tmp_path / "out")
    assert growth.words and len(growth.tokens) == 15
    assert sum(not token.text[1:].isalpha() for token in growth.tokens) > 5
    for token in growth.tokens:
        word = token.text if token.text.startswith(" ") else f"\n{token.text}"  # as at the start of a line
        assert encode_text(new, f"x{word}")[-1] == token.id


@pytest.mark.parametrize("language", ["thai", "chinese", "japanese"])
def test_where_no_space_divides_words_they_are_no_units(language: str, bases: dict[str, Path], tmp_path: Path) -> None:
    assert not grow_tokenizer(bases["llama3"], TEXTS[language], ENGLISH, 15, tmp_path / "out", "auto").words
    with pytest.raises(RecipeError, match=r'vocab\.kind: .* no spaces between words; choose "merges"'):
        grow_tokenizer(bases["llama3"], TEXTS[language], ENGLISH, 15, tmp_path / "words", "words")


@pytest.mark.parametrize("language", CUT)
def test_the_bases_own_pretokenizer_can_be_kept(language: str, bases: dict[str, Path], tmp_path: Path) -> None:
    kept = grow_tokenizer(bases["llama3"], TEXTS[language], ENGLISH, 60, tmp_path / "a", pretokenizer="base")
    changed = grow_tokenizer(bases["llama3"], TEXTS[language], ENGLISH, 60, tmp_path / "b")
    base = load_tokenizer(bases["llama3"])
    before, after = (load_tokenizer(tmp_path / name) for name in "ab")
    assert kept.scripts == () and kept.cuts == changed.cuts and changed.cuts.cut > changed.cuts.words / 2  # type: ignore[union-attr]
    assert before.backend_tokenizer.pre_tokenizer.__getstate__() == base.backend_tokenizer.pre_tokenizer.__getstate__()
    own, ours = (sum(len(encode_text(new, text)) for text in TEXTS[language]) for new in (before, after))
    assert ours < own


@pytest.mark.parametrize("language", CUT)
def test_words_are_respelled_as_the_base_spells_them(language: str, bases: dict[str, Path], tmp_path: Path) -> None:
    growth = grow_tokenizer(bases["llama3"], TEXTS[language] * 2, ENGLISH, 60, tmp_path / "out")
    base, new = load_tokenizer(bases["llama3"]), load_tokenizer(tmp_path / "out")
    respeller = Respeller(new, base, 1.0)
    words = [token for token in growth.tokens if token.text.startswith(" ") and is_letters(token.text[1:])]
    cut = [respeller._cut([token.id]) for token in words]
    own = base.backend_tokenizer.pre_tokenizer
    assert cut == [[part for part, _ in own.pre_tokenize_str(token.text)] for token in words]
    assert max(map(len, cut), default=2) > 1
    changed = 0
    for text in TEXTS[language]:
        ids = np.array(encode_text(new, text), dtype=np.int32)
        back = respeller.respell(ids, 0, 0, 0)
        assert new.decode(back) == text
        changed += len(back) > len(ids)
    assert changed


def test_characters_are_told_where_there_are_no_words(bases: dict[str, Path], tmp_path: Path) -> None:
    lines = {}
    for language in ("japanese", "arabic"):
        growth = grow_tokenizer(bases["llama3"], TEXTS[language], ENGLISH, 40, tmp_path / language)
        base, new = load_tokenizer(bases["llama3"]), load_tokenizer(tmp_path / language)
        report = tokenizer_report(base, new, TEXTS[language], ENGLISH, [token.id for token in growth.tokens])
        lines[language] = _line(report | {"new_tokens": 40, "whole_words": False} | _cuts(growth))
        assert (report["fertility_after"] == 0.0) is (language == "japanese")
        assert report["characters_per_token_after"] > report["characters_per_token_before"]
        # No normalizer: what is written in decomposed form does not meet the tokens of the composed one.
        assert report["decomposed_texts_changed"] == report["decomposed_texts"] > 0
    assert "characters per token" in lines["japanese"] and "pre-tokenizer" not in lines["japanese"]
    assert "tokens per word" in lines["arabic"] and "cuts 100% of the words" in lines["arabic"]
    assert "changed for Arabic" in lines["arabic"]
