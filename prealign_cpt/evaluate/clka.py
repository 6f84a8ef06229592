"""Cross-lingual knowledge application: are facts that were read in one language known in the other? (CLKA)

The measure is PreAlign's (arXiv 2407.16222). Here the facts are invented (`prealign clone`), so that a question in one
language cannot be answered from text that happens to say the same in that language.

A question has a prompt and candidates, of which the model's choice is the one with the largest

    log p(candidate | prompt) - log p(candidate | neutral prompt)

which takes out what the model thinks of a candidate without knowing who is asked about (pointwise mutual information).
A questions file has one JSON object a line: `group` ("english_only", "clone_only", "both", "none": where the fact is
stated), `language` of the question ("english", "clone"), `prompt`, `neutral`, `candidates`, `answer`.
Shapes: B rows, T tokens, N learned positions, D hidden size, V vocabulary.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.words import chunks, encode_words
from prealign_cpt.errors import DataError, MissingInputError
from prealign_cpt.train.loss import CHUNK

LANGUAGES = ("english", "clone")
GROUPS = ("english_only", "clone_only", "both", "none")
"""Where a fact is stated. "none" is the control: its questions can only be guessed."""


@dataclass(frozen=True)
class Question:
    """One line of a questions file."""

    group: str
    language: str
    prompt: str
    neutral: str
    candidates: tuple[str, ...]
    answer: str


def read_questions(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        DataError: a line is not such an object; it is named.
        MissingInputError: the file is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}; check evaluate.clka") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            texts = [content[key] for key in ("group", "language", "prompt", "neutral", "answer")]
            candidates = content["candidates"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not a question ({type(error).__name__}: {error}); `prealign clone` writes such files"
            ) from error
        group, language, prompt, neutral, answer = texts
        if not isinstance(candidates, list) or not all(isinstance(text, str) and text for text in texts + candidates):
            raise DataError(f"{path}:{number}: a field is not text; candidates must be a list of strings")
        if group not in GROUPS or language not in LANGUAGES:
            raise DataError(
                f"{path}:{number}: group {group!r} or language {language!r} is unknown; groups are "
                f"{', '.join(GROUPS)}, languages {', '.join(LANGUAGES)}"
            )
        if candidates.count(answer) != 1 or len(set(candidates)) != len(candidates) or len(candidates) < 2:
            raise DataError(f"{path}:{number}: the answer must be one of at least two different candidates")
        found.append(Question(group, language, prompt, neutral, tuple(candidates), answer))
    if not found:
        raise DataError(f"{path}: no questions in it; `prealign clone --facts` writes them")
    return found


def score_facts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    start_id: int,
    batch_tokens: int = 4096,
) -> dict[str, Any]:
    """Ask all questions.

    Returns:
        `groups`: {"GROUP/LANGUAGE": {"accuracy", "mrr" (mean reciprocal rank), "questions"}};
        `chance`: accuracy of guessing;
        `transfer`: {"english_to_clone", "clone_to_english"}: (across - none) / (same - none), where `across` and `same`
        are the accuracies on facts stated in the first language alone, asked in the second and in the first, and `none`
        those on facts stated nowhere, asked in the same language: 1 is perfect, 0 is nothing. None where the facts were
        not even learned in the language they were stated in.
    """
    ranks = answer_ranks(model, tokenizer, questions, start_id, batch_tokens)
    groups = {
        f"{group}/{language}": {
            "accuracy": round(sum(rank == 0 for rank in some) / len(some), 4),
            "mrr": round(sum(1 / (1 + rank) for rank in some) / len(some), 4),
            "questions": len(some),
        }
        for (group, language), some in sorted(ranks.items())
    }
    return {
        "groups": groups,
        "chance": round(sum(1 / len(q.candidates) for q in questions) / len(questions), 4),
        "transfer": {f"{a}_to_{b}": _transfer(groups, a, b) for a, b in (LANGUAGES, LANGUAGES[::-1])},
    }


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


def _transfer(groups: dict[str, dict[str, float]], source: str, target: str) -> float | None:
    """See `score_facts`; None also where a group is missing."""
    try:
        same, across = groups[f"{source}_only/{source}"], groups[f"{source}_only/{target}"]
        none_same, none_across = groups[f"none/{source}"], groups[f"none/{target}"]
    except KeyError:
        return None
    learned = same["accuracy"] - none_same["accuracy"]
    return round((across["accuracy"] - none_across["accuracy"]) / learned, 4) if learned > 0 else None


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
    head_VD = model.get_output_embeddings().weight  # noqa: N806
    for group in chunks(rows, batch_tokens):
        length = max(len(rows[r]) for r in group) + 1
        inputs_BT = torch.full((len(group), length), start_id)  # noqa: N806
        for b, r in enumerate(group):
            inputs_BT[b, 1 : len(rows[r]) + 1] = torch.tensor(rows[r], dtype=torch.long)
        positions_BT = torch.arange(length).expand_as(inputs_BT).contiguous()  # noqa: N806
        hidden_BTD = model.base_model(  # noqa: N806
            input_ids=inputs_BT.to(device), position_ids=positions_BT.to(device), use_cache=False
        ).last_hidden_state
        # Each position is needed for many candidates, but its logits only once.
        places = sorted({(b, position) for b, r in enumerate(group) for position, *_ in wanted[r]})
        at_place = {place: n for n, place in enumerate(places)}
        b_N, t_N = (torch.tensor(column) for column in zip(*places, strict=True))  # noqa: N806
        hidden_ND = hidden_BTD[b_N.to(device), t_N.to(device)]  # noqa: N806
        asked = [
            (at_place[b, position], token, p, c) for b, r in enumerate(group) for position, token, p, c in wanted[r]
        ]
        asked.sort()
        done = 0
        for first in range(0, len(places), CHUNK):
            log_NV = (hidden_ND[first : first + CHUNK] @ head_VD.T).float().log_softmax(dim=-1)  # noqa: N806
            end = done
            while end < len(asked) and asked[end][0] < first + CHUNK:
                end += 1
            n_A, token_A = (torch.tensor([a[column] for a in asked[done:end]]) for column in (0, 1))  # noqa: N806
            values = log_NV[(n_A - first).to(device), token_A.to(device)].cpu()
            for (_, _, p, c), value in zip(asked[done:end], values, strict=True):
                found[p][c] += value
            done = end
    return found
