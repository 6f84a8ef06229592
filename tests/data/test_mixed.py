"""Mixed tokenization: the text stays, the new tokens of chosen words go."""

import numpy as np
import pytest

from prealign_cpt.data.codeswitch import Respeller
from prealign_cpt.data.pack import encode
from prealign_cpt.data.word_spans import Documents
from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer
from tests.vocab.conftest import ENGLISH, TARGET, byte_level, sentence_piece

GERMAN = [*TARGET["german"], 'Die Brücke.\nIch hab\'s: "Bücher"! (Städte) Zoë', "", "...", "Bücher"]


@pytest.fixture(scope="module", params=["bytelevel", "llama3", "spm"])
def tokenizers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """What was grown, and from what."""
    folder = tmp_path_factory.mktemp("base")
    base = sentence_piece(folder) if request.param == "spm" else byte_level(folder, llama3=request.param == "llama3")
    grow_tokenizer(base, TARGET["german"], ENGLISH, 80, folder / "grown")
    return load_tokenizer(folder / "grown"), load_tokenizer(base)


def new_tokens(ids: np.ndarray, base) -> int:
    return int((ids >= len(base)).sum())


def test_the_text_stays_and_new_tokens_go(tokenizers):
    grown, base = tokenizers
    respeller = Respeller(grown, base, 1.0)
    before = after = 0
    for number, ids in enumerate(encode([*GERMAN, *ENGLISH, *TARGET["russian"]], grown)):
        found = respeller.respell(ids, 1, 0, number)
        assert grown.decode(found) == grown.decode(ids)
        assert found.dtype == np.int32
        before, after = before + new_tokens(ids, base), after + new_tokens(found, base)
    assert before > 40 and after < before / 2


def test_whole_words_are_spelled_as_the_base_spells_them(tokenizers):
    grown, base = tokenizers
    text = "Kinder spielen im Garten und Kinder spielen im Garten"
    ids = next(encode([text], grown))
    assert new_tokens(ids, base) > 2
    found = Respeller(grown, base, 1.0).respell(ids, 0, 0, 0)
    assert found.tolist() == next(encode([text], base)).tolist()


def test_probability_zero_changes_nothing(tokenizers):
    grown, base = tokenizers
    respeller = Respeller(grown, base, 0.0)
    for ids in encode(GERMAN, grown):
        assert respeller.respell(ids, 1, 0, 0).tolist() == ids.tolist()


def test_a_pure_function_of_seed_epoch_and_document(tokenizers):
    grown, base = tokenizers
    texts = GERMAN * 12
    arrays = list(encode(texts, grown))
    borders = np.cumsum([0, *map(len, arrays)])
    together = Respeller(grown, base, 0.5).respell_many(Documents(np.concatenate(arrays), borders), 3, 1, 50)
    alone = [Respeller(grown, base, 0.5).respell(ids, 3, 1, 50 + n).tolist() for n, ids in enumerate(arrays[:8])]
    cut = np.split(together.inputs, together.borders[1:-1])
    assert [ids.tolist() for ids in cut[:8]] == alone
    assert together.labels is together.inputs
    assert len({tuple(ids) for ids in cut[:: len(GERMAN)]}) > 3, "the same text is spelled otherwise elsewhere"
    assert 0 < together.switched < together.chosen < together.words
    assert abs(together.chosen / together.words - 0.5) < 4 * np.sqrt(0.25 / together.words)
    assert int((together.marks == 2).sum()) == together.switched
