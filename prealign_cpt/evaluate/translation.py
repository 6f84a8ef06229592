"""Few-shot translation of parallel sentences and its chrF++ (Popovic 2017), in both directions.

    pairs --some as examples--> prompts --model--> first lines --chrF++ against references--> Figure

A base model is asked by example. Beside its own figure stands that of copying the source: a model that only repeats
scores that much, far above 0 between languages that share letters.
Shapes: N sentences, C counts (of n-grams that were written, wanted and matched, by order).
"""

from collections.abc import Sequence

import numpy as np

from prealign_cpt.evaluate.figures import ROUNDS, Figure, draws

SHOTS = 4
"""Example pairs in each prompt."""


def examples(pairs: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs for the examples, the shortest of the last quarter, and all other pairs, which are scored."""
    last = range(len(pairs) - max(SHOTS, len(pairs) // 4), len(pairs))
    chosen = sorted(sorted(last, key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))[:SHOTS])
    return [pairs[i] for i in chosen], [pair for i, pair in enumerate(pairs) if i not in set(chosen)]


def prompt(shots: Sequence[tuple[str, str]], source: str, names: tuple[str, str]) -> str:
    """`NAME: text` lines, the last one open.

    Args:
        shots: (source, translation).
        names: of the source's language and the translation's.
    """
    told = [f"{names[0]}: {a}\n{names[1]}: {b}\n\n" for a, b in shots]
    return "".join(told) + f"{names[0]}: {source}\n{names[1]}:"


def chrf(hypotheses: Sequence[str], references: Sequence[str], seed: int = 0, note: str = "") -> Figure:
    """Corpus chrF++ of sacrebleu (0 to 100) with the 95 % interval over resampled sentences; its signature is noted.

    The corpus score comes from summed counts of n-grams, so it is no mean over sentences: the interval comes from sums
    over resampled sentences (Koehn 2004). Without a single match there is none.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=2)
    score = float(metric.corpus_score(list(hypotheses), [list(references)]).score)
    signature = f"chrF++ {metric.get_signature()}"
    # sacrebleu's own bootstrap fails where a drawn score is 0: it cannot add Python's floats to numpy's.
    counts_NC = np.array(metric._extract_corpus_statistics(list(hypotheses), [list(references)]))  # noqa: N806
    low = high = None
    if len(counts_NC) > 1 and score > 0:
        drawn = [
            float(metric._compute_score_from_stats(counts_NC[rows].sum(axis=0).tolist()).score)
            for rows in draws(len(counts_NC), seed, ROUNDS)
        ]
        low, high = map(float, np.quantile(drawn, [0.025, 0.975]))
    return Figure(score, low, high, len(counts_NC), f"{note}; {signature}" if note else signature)
