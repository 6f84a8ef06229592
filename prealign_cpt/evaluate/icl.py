"""In-context learning without language: can the model go on with a pattern that its prompt shows?

    " q f b -> q f b\\n c a t -> c a t\\n ..."     copy: the same symbols
    " q f b -> b f q\\n ..."                       sort: the same symbols in the order of the alphabet
    " q -> f\\n b -> a\\n q -> f ..."              map: the symbol that stood behind this one before

English bits per byte can look kept while this is lost (arXiv 2506.00288). One row of examples gives the accuracy for
every number of shots: example k has k examples before it. All symbols are tokens of the base, so that an extended
tokenizer changes nothing in the prompts.
Shapes: B rows, T tokens, A answer positions, S symbols, V vocabulary.
"""

import random
import string
from dataclasses import dataclass

import numpy as np
import torch

from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Absent, Result
from prealign_cpt.evaluate.statistics import mean_of, share, with_changes
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import encode_words
from prealign_cpt.run.errors import NumericError

SHOTS = (1, 2, 4, 8, 16)
ROWS = 32
"""Most rows of each task."""

LENGTH = 3
"""Symbols in an example of copy and sort."""

KEYS = 4
"""Symbols that map has an answer for. Before all of them were shown it cannot be solved, so it starts at 4 shots."""

LEAST = 12
"""Symbols that must be single tokens, or the tokenizer is too strange for this."""

TASKS = ("copy", "sort", "map")


@dataclass(frozen=True)
class Row:
    """Token ids of a row without its start token, and where the answers of each example stand in it."""

    ids: list[int]
    answers: list[list[int]]


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`TASK/SHOTS`: share of rows in which every symbol of the answer is the likeliest of all symbols, given the
    answer's earlier symbols; `accuracy`: the mean over the three tasks and 4 to 16 shots. `base/...` and
    `change/...` where there is a base. Chance is 1/S for map and 1/S^3 for the others; the note of `accuracy` has S.
    """
    result: Result = {}
    for prefix, model in subject.with_base().items():
        symbols, arrow, newline = _symbols(model)
        if len(symbols) < LEAST:
            reason = f"only {len(symbols)} letters are tokens by themselves, {LEAST} are needed"
            return result | {f"{prefix}accuracy": Absent(reason)}
        by_task = []
        for task in TASKS:
            rows = make_rows(task, symbols, arrow, newline, min(ROWS, data.max_items), data.seed)
            right = _right(model, rows, symbols, data.batch_tokens)  # [rows, examples]
            shots = [k for k in SHOTS if task != "map" or k >= KEYS]
            result |= {f"{prefix}{task}/{k}": share(right[:, k]) for k in shots}
            by_task.append(right[:, KEYS:].mean(axis=1))
        note = f"{KEYS} to {SHOTS[-1]} shots, {len(symbols)} symbols; interval over rows"
        # An item is a row of each task: the tasks are fixed, so how far they lie apart is no uncertainty.
        result[f"{prefix}accuracy"] = mean_of(np.mean(by_task, axis=0), note=note)
    return with_changes(result)


def make_rows(
    task: str, symbols: list[int], arrow: list[int], newline: list[int], num_rows: int, seed: int
) -> list[Row]:
    """Rows of `max(SHOTS) + 1` examples of "copy", "sort" or "map". `symbols` are in the order of the alphabet."""
    chance = random.Random(f"{task} {seed}")
    rows = []
    for _ in range(num_rows):
        keys = chance.sample(range(len(symbols)), KEYS)
        values = dict(zip(keys, chance.sample(range(len(symbols)), KEYS), strict=True))
        ids: list[int] = []
        answers: list[list[int]] = []
        for example in range(SHOTS[-1] + 1):
            if task == "map":
                shown = [keys[example] if example < KEYS else chance.choice(keys)]
                answer = [values[shown[0]]]
            else:
                shown = chance.sample(range(len(symbols)), LENGTH)
                answer = sorted(shown) if task == "sort" else shown
            ids += [symbols[i] for i in shown] + arrow
            answers.append(list(range(len(ids), len(ids) + len(answer))))
            ids += [symbols[i] for i in answer] + newline
        rows.append(Row(ids, answers))
    return rows


def _symbols(subject: Subject) -> tuple[list[int], list[int], list[int]]:
    """Ids of the letters that are tokens by themselves after a space, in the order of the alphabet; of "->"; of a line
    end."""
    letters = encode_words(subject.tokenizer, list(string.ascii_lowercase))
    arrow = encode_words(subject.tokenizer, ["->"])[0]
    newline = subject.tokenizer("a\n", add_special_tokens=False)["input_ids"]
    head = subject.tokenizer("a", add_special_tokens=False)["input_ids"]
    return [ids[0] for ids in letters if len(ids) == 1], arrow, list(newline[len(head) :])


@torch.no_grad()
def _right(subject: Subject, rows: list[Row], symbols: list[int], batch_tokens: int) -> np.ndarray:
    """Of each example of each row, whether its whole answer is the likeliest, bool [B, examples]."""
    model, device = subject.model, subject.device
    head_SD = model.get_output_embeddings().weight[torch.tensor(symbols, device=device)]
    symbols_S = torch.tensor(symbols, device=device)
    size = max(1, batch_tokens // (len(rows[0].ids) + 1))
    found = []
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        ids_BT = torch.tensor([[subject.start_token_id, *row.ids] for row in group], device=device)
        hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        # The token at place i of the row stands at i + 1 behind the start token, and is predicted from i.
        logits_BTS = (hidden_BTD @ head_SD.T).float()
        if not torch.isfinite(logits_BTS).all():
            raise NumericError(f"{subject.folder}: the model's outputs are not finite")
        right_BT = symbols_S[logits_BTS.argmax(dim=-1)[:, :-1]] == ids_BT[:, 1:]
        found += [[bool(right_BT[b, answer].all()) for answer in row.answers] for b, row in enumerate(group)]
    return np.array(found)
