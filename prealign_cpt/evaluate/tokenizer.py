"""The tokenizer's figures, beside those of the tokenizer that was extended.

    texts --extended, base--> fertility, bytes per token, byte fallback, single-token words, round trip
    pairs --extended, base--> parity

Names are LANGUAGE/SET/FIGURE; those of the base begin with "base/".
"""

from collections import Counter
from collections.abc import Callable
from itertools import chain

import numpy as np
import regex
from transformers import PreTrainedTokenizerBase

from prealign_cpt.evaluate.data import LANGUAGES, EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.statistics import mean_of, share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.vocab.families import BYTE_OF

FREQUENT = 1000
"""Word types whose tokens are counted for `single_token_words`."""

_WORD = regex.compile(r"\b", flags=regex.WORD | regex.VERSION1)
_SP_BYTE = regex.compile(r"<0x[0-9A-F]{2}>")


def measure(subject: Subject, data: EvaluationData) -> Result:
    """The figures of each text and of the parallel text. Per LANGUAGE/SET:

    `fertility`: tokens per word; words are cut by UAX #29, which knows no words in Thai or Chinese (see
        `chars_per_token` there); `bytes_per_token`, `chars_per_token`;
    `byte_fallback`: share of the tokens that are no whole characters; `unknown`: share that is the unknown token;
    `continued_words`: share of the running words with two tokens or more;
    `single_token_words`: share of the most frequent word types that are one token;
    `round_trip`: share of the documents for which decode(encode(x)) == x;
    `same_as_base`: share of the documents that the base cuts into the same tokens (English only).

    `parity`: tokens of the target sentences by tokens of their English translations (Petrov et al. 2023,
    arXiv 2305.15425).
    """
    subjects = subject.with_base()
    result: Result = {}
    for language in LANGUAGES:
        for name, _ in getattr(data, language):
            documents = data.sample(data.documents(language, name))
            encoded = {prefix: model.encode(documents) for prefix, model in subjects.items()}
            for prefix, model in subjects.items():
                figures = _of_texts(model.tokenizer, documents, encoded[prefix])
                result |= {f"{prefix}{language}/{name}/{figure}": value for figure, value in figures.items()}
            if language == "english" and "base/" in encoded:
                same = [a == b for a, b in zip(encoded[""], encoded["base/"], strict=True)]
                result[f"english/{name}/same_as_base"] = share(np.array(same))
        if not getattr(data, language):
            result[f"{language}/fertility"] = Absent(f"no local data: no {language} text; give it with --{language}")
    try:
        pairs = data.pairs()
    except NoDataError as error:
        return result | {"parity": Absent(str(error))}
    for prefix, model in subjects.items():
        english, target = (np.array([len(ids) for ids in model.encode([pair[i] for pair in pairs])]) for i in (0, 1))
        result[f"{prefix}parity"] = mean_of(target / english, english)
    return result


def words_of(text: str) -> list[str]:
    """The words of a text by Unicode's default word borders (UAX #29), without spaces and punctuation."""
    return [part for part in _WORD.split(text) if any(character.isalnum() for character in part)]


def partial(token: str, byte_level: bool) -> bool:
    """Whether a token, as the vocabulary spells it, is bytes that are no whole characters. Not for added tokens, which
    are spelt as they are."""
    if not byte_level:
        return _SP_BYTE.fullmatch(token) is not None
    if not all(letter in BYTE_OF for letter in token):
        return False
    try:
        bytes(BYTE_OF[letter] for letter in token).decode()
    except UnicodeDecodeError:
        return True
    return False


def round_trips(tokenizer: PreTrainedTokenizerBase, texts: list[str], encoded: list[list[int]]) -> list[bool]:
    """Of each text, whether its ids decode to the text."""
    decoded = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded)
    return [text == back for text, back in zip(texts, decoded, strict=True)]


def _of_texts(tokenizer: PreTrainedTokenizerBase, documents: list[str], encoded: list[list[int]]) -> dict[str, Figure]:
    byte_level = "Ġ" in tokenizer.get_vocab()
    learned = set(chain(*encoded)) - set(tokenizer.get_added_vocab().values())
    strange = {i for i in learned if partial(tokenizer.convert_ids_to_tokens(i), byte_level)}
    words = [words_of(document) for document in documents]
    types = Counter(chain(*words))
    kinds = list(types)
    num_tokens = {word: len(ids) for word, ids in zip(kinds, encode_words(tokenizer, kinds), strict=True)}
    frequent = [num_tokens[word] == 1 for word, _ in types.most_common(FREQUENT)]
    tokens = np.array([len(ids) for ids in encoded])

    def mean(part: Callable[[int], float], whole: np.ndarray) -> Figure:
        parts = np.array([part(i) for i in range(len(documents))], dtype=np.float64)
        some = whole > 0
        return mean_of(parts[some] / whole[some], whole[some])

    count = np.array([len(of_document) for of_document in words])
    figures = {
        "bytes_per_token": mean(lambda i: len(documents[i].encode()), tokens),
        "chars_per_token": mean(lambda i: len(documents[i]), tokens),
        "byte_fallback": mean(lambda i: sum(number in strange for number in encoded[i]), tokens),
        "unknown": mean(lambda i: encoded[i].count(tokenizer.unk_token_id) if _has_unknown(tokenizer) else 0, tokens),
        "round_trip": share(np.array(round_trips(tokenizer, documents, encoded))),
    }
    if not types:
        return figures
    return {
        "fertility": mean(lambda i: len(encoded[i]), count),
        **figures,
        "continued_words": mean(lambda i: sum(num_tokens[word] > 1 for word in words[i]), count),
        "single_token_words": share(np.array(frequent), f"the {len(frequent)} most frequent words"),
    }


def _has_unknown(tokenizer: PreTrainedTokenizerBase) -> bool:
    # Some byte-level tokenizers name an ordinary special token as unknown, which they can never write.
    return tokenizer.unk_token_id is not None and tokenizer.unk_token not in (tokenizer.eos_token, tokenizer.bos_token)
