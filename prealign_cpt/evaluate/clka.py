"""Cross-lingual knowledge application: are facts that were read in one language known in the other? (CLKA)

    questions --log-probabilities of the candidates--> rank of each right answer --> accuracy per group, transfer, leak

The measure is PreAlign's (arXiv 2407.16222). Here the facts are invented, so that a question in one language cannot be
answered from text that happens to say the same in that language; they must have been in the model's training text
(`prealign clone --facts` writes both). The model's choice is the candidate with the largest

    log p(candidate | prompt) - log p(candidate | neutral prompt)

which takes out what the model thinks of a candidate without knowing who is asked about (pointwise mutual information).
Shapes: B rows, T tokens, N learned positions, D hidden size, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.evaluate.data import QUESTION_LANGUAGES, EvaluationData, Question
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.statistics import mean_of, share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.loss import CHUNK
from prealign_cpt.model.vectors import chunks, encode_words

LEAK = 0.01
"""Below this probability facts that were stated nowhere are answered too well to be guessed."""

ROUNDS = 1000
"""Of the bootstrap of `transfer`, whose denominator may come near 0."""


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`accuracy/GROUP/LANGUAGE` and `mrr/GROUP/LANGUAGE` (mean reciprocal rank); `transfer/A_to_B`, 1 for perfect and 0
    for none (see `transfer`); `chance`, the accuracy of guessing; and `leak/LANGUAGE`: the probability that guessing
    answers as many questions about facts stated nowhere. A small one means that the questions give themselves away.

    Raises:
        NoDataError: no questions.
        DataError: a line is no question.
    """
    questions = data.questions()
    ranks = answer_ranks(subject.model, subject.tokenizer, questions, subject.start_token_id, data.batch_tokens)
    return figures_of(ranks, float(np.mean([1 / len(q.candidates) for q in questions])), data.seed)


def figures_of(ranks: dict[tuple[str, str], list[float]], chance: float, seed: int) -> Result:
    """The figures of `measure`, from what `answer_ranks` gives."""
    hits = {"/".join(key): np.array(ranks_N) == 0 for key, ranks_N in ranks.items()}
    result: Result = {"chance": Figure(chance, n=sum(map(len, ranks.values())), note="accuracy of guessing")}
    for (group, language), ranks_N in sorted(ranks.items()):
        result[f"accuracy/{group}/{language}"] = share(hits[f"{group}/{language}"])
        result[f"mrr/{group}/{language}"] = mean_of(1 / (1 + np.array(ranks_N)))
    for language in QUESTION_LANGUAGES:
        if (known := hits.get(f"none/{language}")) is not None:
            p = float(stats.binomtest(int(known.sum()), len(known), chance, alternative="greater").pvalue)
            told = (
                "facts stated nowhere are not guessed too well" if p >= LEAK else "LEAK: facts stated nowhere are known"
            )
            result[f"leak/{language}"] = Figure(p, n=len(known), note=f"exact binomial test; {told}")
    for a, b in (QUESTION_LANGUAGES, QUESTION_LANGUAGES[::-1]):
        names = [f"{a}_only/{a}", f"{a}_only/{b}", f"none/{a}", f"none/{b}"]
        missing = [name for name in names if name not in hits]
        result[f"transfer/{a}_to_{b}"] = (
            Absent(f"no questions of {', '.join(missing)}") if missing else transfer([hits[n] for n in names], seed)
        )
    return result


def answer_ranks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    start_id: int,
    batch_tokens: int = 4096,
) -> dict[tuple[str, str], list[float]]:
    """For each group and language the rank of each right answer among its candidates, 0 for the first, in order."""
    prompts = sorted({(text, q.candidates) for q in questions for text in (q.prompt, q.neutral)})
    scored = dict(zip(prompts, _log_probabilities(model, tokenizer, prompts, start_id, batch_tokens), strict=True))
    ranks: dict[tuple[str, str], list[float]] = defaultdict(list)
    for q in questions:
        gain = scored[q.prompt, q.candidates] - scored[q.neutral, q.candidates]
        answer = gain[q.candidates.index(q.answer)]
        # Equal candidates share their ranks, so that a model that knows nothing gets no more than chance.
        ranks[q.group, q.language].append(float((gain > answer).sum()) + 0.5 * float((gain == answer).sum() - 1))
    return dict(ranks)


def transfer(answered: Sequence[np.ndarray], seed: int) -> Figure | Absent:
    """(across - none) / (same - none): 1 is perfect, 0 is nothing. Its interval is over resampled questions (percentile
    bootstrap), each group by itself.

    Args:
        answered: which questions were answered, bool [N] each: about facts stated in a language, asked in it and in the
            other (`same`, `across`), and about facts stated nowhere, asked in both (`none`).
    """
    count = len(answered[0])
    value = float(_crossed(answered, 0))
    if math.isnan(value):
        return Absent("the facts are not known in the language they were stated in, so nothing can cross")
    random = np.random.default_rng(seed)
    drawn = _crossed([part[random.integers(len(part), size=(ROUNDS, len(part)))] for part in answered], 1)
    if np.isnan(drawn).mean() > 0.025:
        return Figure(value, n=count, note="no interval: too little is known in the language of statement")
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Figure(value, float(low), float(high), count)


def _crossed(answered: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """(across - none) / (same - none) of the means along an axis; NaN where nothing was learned."""
    same, across, none, none_across = (part.mean(axis) for part in answered)
    learned = np.asarray(same - none)
    return np.asarray((across - none_across) / np.where(learned > 0, learned, np.nan))


@torch.no_grad()
def _log_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[tuple[str, tuple[str, ...]]],
    start_id: int,
    batch_tokens: int,
) -> list[torch.Tensor]:
    """log p of each candidate after its prompt, in nats; fp32 [candidates] for each prompt.

    Candidates of one token are all read off the last position of one row; only longer ones need a row of their own.
    """
    words = sorted({candidate for _, candidates in prompts for candidate in candidates})
    ids_of = dict(zip(words, encode_words(tokenizer, words), strict=True))
    encoded = tokenizer([text for text, _ in prompts], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    found = [torch.zeros(len(candidates)) for _, candidates in prompts]
    rows: list[list[int]] = []
    wanted: list[list[tuple[int, int, int, int]]] = []  # of each row: position, token, prompt, candidate
    for p, ((_, candidates), prompt) in enumerate(zip(prompts, encoded, strict=True)):
        row_of: dict[tuple[int, ...], int] = {}
        for c, candidate in enumerate(candidates):
            ids = ids_of[candidate]
            fed = tuple(ids[:-1])
            if fed not in row_of:
                row_of[fed] = len(rows)
                rows.append([*prompt, *fed])
                wanted.append([])
            wanted[row_of[fed]] += [(len(prompt) + at, token, p, c) for at, token in enumerate(ids)]
    device = model.get_input_embeddings().weight.device
    head_VD = model.get_output_embeddings().weight
    for group in chunks(rows, batch_tokens):
        length = max(len(rows[r]) for r in group) + 1
        inputs_BT = torch.full((len(group), length), start_id)
        for b, r in enumerate(group):
            inputs_BT[b, 1 : len(rows[r]) + 1] = torch.tensor(rows[r], dtype=torch.long)
        positions_BT = torch.arange(length).expand_as(inputs_BT).contiguous()
        hidden_BTD = model.base_model(
            input_ids=inputs_BT.to(device), position_ids=positions_BT.to(device), use_cache=False
        ).last_hidden_state
        # Each position is needed for many candidates, but its logits only once.
        places = sorted({(b, position) for b, r in enumerate(group) for position, *_ in wanted[r]})
        at_place = {place: n for n, place in enumerate(places)}
        b_N, t_N = (torch.tensor(column) for column in zip(*places, strict=True))
        hidden_ND = hidden_BTD[b_N.to(device), t_N.to(device)]
        asked = [
            (at_place[b, position], token, p, c) for b, r in enumerate(group) for position, token, p, c in wanted[r]
        ]
        asked.sort()
        done = 0
        for first in range(0, len(places), CHUNK):
            log_NV = (hidden_ND[first : first + CHUNK] @ head_VD.T).float().log_softmax(dim=-1)
            end = done
            while end < len(asked) and asked[end][0] < first + CHUNK:
                end += 1
            n_A, token_A = (torch.tensor([a[column] for a in asked[done:end]]) for column in (0, 1))
            values = log_NV[(n_A - first).to(device), token_A.to(device)].cpu()
            for (_, _, p, c), value in zip(asked[done:end], values, strict=True):
                found[p][c] += value
            done = end
    return found
