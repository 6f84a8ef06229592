"""Bilingual lexicon induction: is a word's nearest word of the other language its translation? (BLI)

    held-out words, training words, other words --every layer--> vectors, centred per language
    --cosine, CSLS--> rank of the best translation --> P@1, P@5, each half of the words at the other half's best layer

Words stand alone after a space (model/vectors.py): the mean over their tokens, the start token left out.
Shapes: S words that ask, C candidates, L+1 layers (embeddings, then every block), D hidden size.
"""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.evaluate.cosine import centred, crossed, csls, ranks
from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.statistics import share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.tokenizer import words_of
from prealign_cpt.lexicon.pairs import Pair, read_pairs
from prealign_cpt.model.vectors import encode_words, vectors_of
from prealign_cpt.run.errors import DataError

HELD, SEEN = 400, 150
"""Held-out words and training words that are asked, at most; `max_items` bounds both too."""

POOL = 3
"""Of each language so many times the held-out words are compared, where there are so many: all translations, then other
words of the lexicon and the most frequent ones of the texts by turns."""

WAYS = ("english_to_target", "target_to_english")

Gold = dict[str, set[str]]
"""Words to their translations."""


@dataclass(frozen=True)
class Asked:
    """Words that ask, and where they and their translations stand among the compared words."""

    words: list[str]
    rows: list[int]
    gold: list[list[int]]


@dataclass(frozen=True)
class Layer:
    """What one layer finds: `ranks` by "SET/SCORE" ("held/csls"), and the hubs."""

    ranks: dict[str, np.ndarray]
    hubs: dict[str, Figure]


def measure(subject: Subject, data: EvaluationData) -> Result:
    """For each direction (WAY is "english_to_target" or "target_to_english"):

    `WAY/p1_csls`, `p5_csls`, `p1_nn`, `p5_nn`: share of the held-out words that the tokenizer can write with a
        translation among their 1 or 5 nearest, by CSLS and by plain cosine; `WAY/p1_csls_all`: over all held-out words,
        those that the tokenizer cannot write counted as wrong; `WAY/coverage`: share of those it can;
        Each half of the words is judged at the layer that finds most of the other half by CSLS;
    `WAY/layer`: the layer that is best for all of them, 0 is the embeddings; there are measured:
    `WAY/p1_csls_seen`: P@1 of training words;
    `WAY/hub_nn`, `hub_csls`: how many words have the most frequent nearest word as theirs, by words that ask;
    `WAY/p1_csls_identical`: P@1 of pairs of equal spelling, which the others leave out; absent if there are none.
    `WAY/layer/N/p1_csls`, `p1_nn`: the figures of each layer; `WAY/candidates`: words among which is searched.

    Of several languages all words together, and `WAY/p1_csls/SOURCE`: those of each alone, among its own words.

    Raises:
        NoDataError: the lexicon is not given.
        DataError: the subject was trained on entries that are held out here.
    """
    result: Result = {}
    for name, own in data.by_language():
        result |= {f"{way}/p1_csls/{name}": measure(subject, own)[f"{way}/p1_csls"] for way in WAYS}
    train, heldout = data.lexicon()
    _check_split(subject, heldout)
    golds = {way: _golds(heldout, train, way == WAYS[1], data) for way in WAYS}
    for half, name in (("held-out", "held"), ("training", "seen")):
        if not golds[WAYS[0]][name]:
            reason = Absent(f"the {half} half of the lexicon has no pair of different spelling")
            return result | {f"{way}/p1_csls": reason for way in WAYS}
    english = _compared(subject, data, "english", golds[WAYS[0]], golds[WAYS[1]], [pair.source for pair in train])
    target = _compared(subject, data, "target", golds[WAYS[1]], golds[WAYS[0]], [pair.target for pair in train])
    asked = {
        way: {name: _asked(gold, asking, answering) for name, gold in golds[way].items()}
        for way, asking, answering in ((WAYS[0], english, target), (WAYS[1], target, english))
    }
    if not all(asked[way][name].rows for way in WAYS for name in ("held", "seen")):
        reason = Absent("the tokenizer can write no held-out or no training word")
        return result | {f"{way}/p1_csls": reason for way in WAYS}
    vectors = [
        vectors_of(subject.model, encode_words(subject.tokenizer, words), subject.start_token_id, data.batch_tokens)
        for words in (english, target)
    ]
    layers: dict[str, list[Layer]] = {way: [] for way in WAYS}
    for english_SD, target_CD in zip(*vectors, strict=True):
        cosine_SC = centred(english_SD) @ centred(target_CD).T
        csls_SC = csls(cosine_SC)
        layers[WAYS[0]].append(_layer({"nn": cosine_SC, "csls": csls_SC}, asked[WAYS[0]]))
        layers[WAYS[1]].append(_layer({"nn": cosine_SC.T, "csls": csls_SC.T}, asked[WAYS[1]]))
    for way, candidates in ((WAYS[0], target), (WAYS[1], english)):
        figures = _figures(layers[way], asked[way]["held"], list(golds[way]["held"]), len(candidates))
        result |= {f"{way}/{name}": figure for name, figure in figures.items()}
    return result


def translations(pairs: list[Pair], flip: bool = False, identical: bool = False) -> Gold:
    """The translations of each word, in the order of the lexicon: of the pairs that are spelt alike, or of all others
    (those spelt alike would be found by looking).

    Args:
        flip: target words ask, English words answer.
    """
    gold: Gold = {}
    for pair in pairs:
        if (pair.source.casefold() == pair.target.casefold()) == identical:
            asks, answers = (pair.target, pair.source) if flip else (pair.source, pair.target)
            gold.setdefault(asks, set()).add(answers)
    return gold


def _check_split(subject: Subject, heldout: list[Pair]) -> None:
    """Another run may have split its lexicon otherwise."""
    path = subject.run / "lexicon" / "clean.tsv" if subject.run else None
    if path is None or not path.is_file():
        return
    seen = read_pairs(path)
    sources, targets = {pair.source for pair in seen}, {pair.target for pair in seen}
    known = [pair.source for pair in heldout if pair.source in sources or pair.target in targets]
    if known:
        raise DataError(
            f"{path}: this run was trained with {len(known)} of the {len(heldout)} held-out entries ({known[0]!r}); "
            "compare runs that split the lexicon alike, or give --lexicon-heldout that none has seen"
        )


def _golds(heldout: list[Pair], train: list[Pair], flip: bool, data: EvaluationData) -> dict[str, Gold]:
    """The words to look up in one direction: held out, seen in training, and held out but spelt like a translation."""

    def drawn(gold: Gold, most: int) -> Gold:
        kept = set(random.Random(data.seed).sample(sorted(gold), min(most, data.max_items, len(gold))))
        return {word: answers for word, answers in gold.items() if word in kept}

    return {
        "held": drawn(translations(heldout, flip), HELD),
        "seen": drawn(translations(train, flip), SEEN),
        "same": drawn(translations(heldout, flip, identical=True), HELD),
    }


def _compared(
    subject: Subject,
    data: EvaluationData,
    language: str,
    asking: dict[str, Gold],
    answering: dict[str, Gold],
    lexicon: list[str],
) -> list[str]:
    """The words of a language that are compared: those that ask, those that answer, and others; all writable."""
    frequent = Counter(
        word
        for name, _ in getattr(data, language)
        for text in data.documents(language, name)
        for word in words_of(text)
    )
    asks = [word for gold in asking.values() for word in gold]
    answers = [word for gold in answering.values() for words in gold.values() for word in sorted(words)]
    words = _pool([*asks, *answers], lexicon, frequent, POOL * min(HELD, data.max_items))
    return [word for word, ok in zip(words, _writable(subject.tokenizer, words), strict=True) if ok]


def _layer(scores: dict[str, Tensor], asked: dict[str, Asked]) -> Layer:
    return Layer(
        {
            f"{name}/{kind}": ranks(score_SC[words.rows], words.gold)
            for kind, score_SC in scores.items()
            for name, words in asked.items()
            if words.rows
        },
        {f"hub_{kind}": _hub(score_SC[asked["held"].rows]) for kind, score_SC in scores.items()},
    )


def _figures(layers: list[Layer], asked: Asked, words: list[str], candidates: int) -> Result:
    """The figures of one direction."""
    hits_LS = np.array([layer.ranks["held/csls"] == 0 for layer in layers])
    best, judge_S = int(hits_LS.sum(axis=1).argmax()), crossed(hits_LS)
    held = {
        kind: np.array([layer.ranks[f"held/{kind}"] for layer in layers])[judge_S, np.arange(len(judge_S))]
        for kind in ("csls", "nn")
    }
    judges = " and ".join(map(str, sorted(set(judge_S.tolist()))))
    note, note_best = f"{candidates} candidates, layer {judges}", f"{candidates} candidates, layer {best}"
    ranks_best = layers[best].ranks
    rank_of = dict(zip(asked.words, held["csls"], strict=True))
    result: Result = {
        "p1_csls": share(held["csls"] == 0, note),
        "p5_csls": share(held["csls"] < 5, note),
        "p1_nn": share(held["nn"] == 0, note),
        "p5_nn": share(held["nn"] < 5, note),
        "p1_csls_all": share(np.array([rank_of.get(word, 1) == 0 for word in words]), note),
        "coverage": share(np.array([word in rank_of for word in words])),
        "p1_csls_seen": share(ranks_best["seen/csls"] == 0, note_best),
        "p1_csls_identical": share(ranks_best["same/csls"] == 0, note_best)
        if "same/csls" in ranks_best
        else Absent("no held-out pair of equal spelling"),
        "layer": Figure(best, note=f"of {len(layers) - 1}; best for held-out words"),
        "candidates": Figure(candidates),
        **layers[best].hubs,
    }
    for number, layer in enumerate(layers):
        for kind in ("csls", "nn"):
            figure = share(layer.ranks[f"held/{kind}"] == 0)
            result[f"layer/{number}/p1_{kind}"] = Figure(figure.value, figure.low, figure.high, figure.n)
    return result


def _pool(needed: list[str], lexicon: list[str], frequent: Counter[str], most: int) -> list[str]:
    """The needed words, then words of the lexicon and frequent words by turns, up to `most`; each once."""
    found = dict.fromkeys(needed)
    common = [word for word, _ in frequent.most_common(most)]
    spread = lexicon[:: max(1, len(lexicon) // most)]  # from all of the lexicon, which is in the order of the alphabet
    for turn in range(most):
        for words in (spread, common):
            if turn < len(words) and len(found) < most:
                found.setdefault(words[turn])
    return list(found)


def _writable(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[bool]:
    """Of each word, whether its tokens say it: none is unknown and they decode to it."""
    encoded = encode_words(tokenizer, words)
    decoded = [tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() for ids in encoded]
    return [bool(ids) and text == word for ids, text, word in zip(encoded, decoded, words, strict=True)]


def _asked(gold: Gold, asking: list[str], answering: list[str]) -> Asked:
    """The words of `gold` that can be looked up, in its order."""
    row = {word: i for i, word in enumerate(asking)}
    column = {word: i for i, word in enumerate(answering)}
    kept = [word for word, answers in gold.items() if word in row and not answers.isdisjoint(column)]
    return Asked(
        kept,
        [row[word] for word in kept],
        [[column[answer] for answer in sorted(gold[word]) if answer in column] for word in kept],
    )


def _hub(score_SC: Tensor) -> Figure:
    """Share of the rows whose nearest candidate is the one that is nearest most often."""
    nearest = score_SC.argmax(dim=1).bincount()
    return Figure(float(nearest.max()) / len(score_SC), n=len(score_SC), note=f"{int(nearest.max())} words")
