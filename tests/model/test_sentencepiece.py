"""Words and pieces of a SentencePiece base, whose tokenizer puts a space before any text by itself."""

from pathlib import Path

from transformers import AutoTokenizer

from prealign_cpt.data.codeswitch import Switcher
from prealign_cpt.data.pack import encode
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import token_texts
from prealign_cpt.model.vectors import encode_pieces, encode_words
from tests.vocab.conftest import sentence_piece


def test_words_pieces_and_switching(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(sentence_piece(tmp_path))
    tokens = tokenizer.convert_ids_to_tokens
    texts = token_texts(tokenizer)
    assert texts[tokenizer.convert_tokens_to_ids("▁the")] == " the"
    assert texts[tokenizer.convert_tokens_to_ids("ing")] == "ing"
    assert tokens(encode_words(tokenizer, ["the"])[0]) == ["▁the"]
    whole, inside = encode_pieces(tokenizer, [" the", "ing"])
    assert tokens(whole) == ["▁the"]
    assert tokens(inside) == ["ing"]
    switcher = Switcher(tokenizer, [Pair("the", "das"), Pair("water", "Wasser")], 1.0)
    ids = next(iter(encode(["and the water\nwater of it"], tokenizer)))
    assert tokenizer.decode(switcher.switch(ids, 0, 0, 0).inputs) == "and das Wasser\nWasser of it"
