"""Knowledge that crosses languages (CLKA) as a measure: invented facts stated in one language, asked in the other.

    questions --clka.py--> rank of each right answer --> accuracy per group, transfer, leakage control

The facts must have been in the model's training text; `prealign clone --facts` writes both.
"""

import math
from collections.abc import Sequence

import numpy as np

from prealign_cpt.evaluate.clka import LANGUAGES, answer_ranks, read_questions
from prealign_cpt.evaluate.figures import Absent, Figure, Result, share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import NoDataError, Work

QUESTIONS = "clka.jsonl"
"""In the folder of a clone."""

ROUNDS = 1000
LEAK = 0.01
"""Below this probability facts that were stated nowhere are answered too well to be guessed."""


def measure(subject: Subject, work: Work) -> Result:
    """`accuracy/GROUP/LANGUAGE` and `mrr/GROUP/LANGUAGE` (mean reciprocal rank); `transfer/A_to_B`, 1 for perfect and 0
    for none (`clka.score_facts`); `chance`; and `leak/LANGUAGE`: the probability that guessing answers as many
    questions about facts stated nowhere. A small one means that the questions give themselves away.

    Raises:
        NoDataError: no questions.
        DataError: a line is no question.
    """
    if work.facts is None:
        raise NoDataError("no local data: no questions about facts; give them with --facts")
    questions = read_questions(work.facts / QUESTIONS if work.facts.is_dir() else work.facts)
    ranks = answer_ranks(subject.model, subject.tokenizer, questions, subject.start_token_id, work.batch_tokens)
    chance = sum(1 / len(q.candidates) for q in questions) / len(questions)
    hits = {key: np.array(some) == 0 for key, some in ranks.items()}
    result: Result = {"chance": Figure(chance, n=len(questions), note="accuracy of guessing")}
    for (group, language), some in sorted(ranks.items()):
        result[f"accuracy/{group}/{language}"] = share(hits[group, language])
        result[f"mrr/{group}/{language}"] = Figure(float(np.mean([1 / (1 + rank) for rank in some])), n=len(some))
    for language in LANGUAGES:
        if ("none", language) in hits:
            own = hits["none", language]
            p = at_least(int(own.sum()), len(own), chance)
            told = (
                "facts stated nowhere are not guessed too well" if p >= LEAK else "LEAK: facts stated nowhere are known"
            )
            result[f"leak/{language}"] = Figure(p, n=len(own), note=f"exact binomial test; {told}")
    for a, b in (LANGUAGES, LANGUAGES[::-1]):
        keys = [(f"{a}_only", a), (f"{a}_only", b), ("none", a), ("none", b)]
        missing = [f"{group}/{language}" for group, language in keys if (group, language) not in hits]
        result[f"transfer/{a}_to_{b}"] = (
            Absent(f"no questions of {', '.join(missing)}") if missing else transfer([hits[k] for k in keys], work.seed)
        )
    return result


def transfer(answered: Sequence[np.ndarray], seed: int) -> Figure | Absent:
    """(across - none) / (same - none) with its interval over resampled questions, each group by itself.

    Args:
        answered: which questions were answered, bool [N] each: about facts stated in a language, asked in it and in the
            other (`same`, `across`), and about facts stated nowhere, asked in both (`none`).
    """

    def ratio(parts: Sequence[np.ndarray]) -> float:
        learned = parts[0].mean() - parts[2].mean()
        return float((parts[1].mean() - parts[3].mean()) / learned) if learned > 0 else math.nan

    value = ratio(answered)
    if math.isnan(value):
        return Absent("the facts are not known in the language they were stated in, so nothing can cross")
    random = np.random.default_rng(seed)
    drawn = np.array(
        [ratio([part[random.integers(len(part), size=len(part))] for part in answered]) for _ in range(ROUNDS)]
    )
    if np.isnan(drawn).mean() > 0.025:
        return Figure(value, n=len(answered[0]), note="no interval: too little is known in the language of statement")
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Figure(value, float(low), float(high), len(answered[0]))


def at_least(hits: int, n: int, p: float) -> float:
    """Probability of `hits` or more of `n` at chance `p`: P(X >= hits) of a binomial variable."""
    return min(1.0, sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1)))
