"""Few-shot translation of parallel sentences and its chrF++ (Popovic 2017), in both directions.

    pairs --some as examples--> prompts --model--> first lines --chrF++ against references--> Figure

A base model is asked by example. Beside its own figure stands that of copying the source: a model that only repeats
scores that much, far above 0 between languages that share letters.
"""

import json
from collections.abc import Sequence

from prealign_cpt.evaluate.figures import ROUNDS, Figure

SHOTS = 4
"""Example pairs in each prompt."""

DECIMALS = 9
"""With which sacrebleu tells an interval."""


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


def chrf(hypotheses: Sequence[str], references: Sequence[str], note: str = "") -> Figure:
    """Corpus chrF++ of sacrebleu (0 to 100), with its signature in the note.

    The corpus score comes from summed counts of n-grams, so it is no mean over sentences: the 95 % interval is
    sacrebleu's own, from resampled sentences (Koehn 2004), symmetric about their mean. There is none where a drawn set
    of sentences has not a single match, which sacrebleu cannot compute: then hardly anything was written.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=2)
    written, wanted = list(hypotheses), [list(references)]
    value = float(metric.corpus_score(written, wanted).score)
    signature = str(metric.get_signature())
    low = high = None
    if len(written) > 1 and value > 0:
        try:
            drawn = metric.corpus_score(written, wanted, n_bootstrap=ROUNDS)
        except TypeError:  # sacrebleu 2.6 cannot average Python's 0.0 with numpy's numbers
            note = f"{note}; no interval, since nothing matches in some draws".removeprefix("; ")
        else:
            signature = str(metric.get_signature())
            told = json.loads(drawn.format(width=DECIMALS, signature=signature, is_json=True))
            middle, half = told["confidence_mean"], told["confidence_var"]
            low, high = min(value, middle - half), max(value, middle + half)
    return Figure(value, low, high, len(written), f"{note}; chrF++ {signature}".removeprefix("; "))
