"""The mixed-language matrix: a premise in one language, a hypothesis in another, a classifier that saw English only.

    premise, hypothesis --mean hidden state, per text--> [u, v, |u - v|, u * v] --logistic regression--> label
                     tested on     hypothesis English   hypothesis target
        premise English                 english/english        english/target
        premise target                  target/english          target/target

InfoXLM (arXiv 2007.07834) gains most where languages meet in one input. Pairs come from files with labels (natural
language inference, say); without them from parallel text, with the question whether the second sentence follows the
first or stands elsewhere, which needs text in its order.
Shapes: N pairs, L+1 layers, D hidden size.
"""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Figure, Result
from prealign_cpt.evaluate.statistics import share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.transfer import MOST_TOKENS, classify
from prealign_cpt.model.vectors import vectors_of
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.lines import read_lines

LANGUAGES = ("english", "target")
CELLS = tuple((premise, hypothesis) for premise in LANGUAGES for hypothesis in LANGUAGES)

LEAST = 40
"""Pairs to train on, and to test on."""

FAR = 10
"""A sentence that does not follow stands at least so many sentences away."""


@dataclass(frozen=True)
class Example:
    """A labelled pair; the target side is empty where it is only trained on."""

    label: str
    premise: dict[str, str]
    hypothesis: dict[str, str]


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`PREMISE/HYPOTHESIS`: accuracy of each cell, on the same pairs; `shuffled`: the control, english/english after
    training on shuffled labels; `chance`: the most frequent label; `mixed_gap`: english/english less the mean of the
    two mixed cells.

    Raises:
        NoDataError: neither labelled pairs nor parallel text.
        DataError: too few of them.
    """
    train, test, what = examples(data)
    if min(len(train), len(test)) < LEAST:
        raise DataError(
            f"the mixed-language matrix: {len(train)} pairs to train and {len(test)} to test; {LEAST} are needed"
        )
    labels = sorted({example.label for example in train})
    if strange := {example.label for example in test} - set(labels):
        raise DataError(f"{data.nli_test}: labels {sorted(strange)} do not occur in {data.nli_train}")
    vectors = _vectors(subject, train + test)
    answers_N = torch.tensor([labels.index(example.label) for example in train + test])
    fit, check = torch.arange(len(train)), torch.arange(len(train), len(train) + len(test))

    def features(layer: int, rows: Tensor, some: list[Example], premise: str, hypothesis: str) -> Tensor:
        u, v = (
            torch.stack([vectors[text][layer] for text in texts])
            for texts in (
                [some[int(i)].premise[premise] for i in rows],
                [some[int(i)].hypothesis[hypothesis] for i in rows],
            )
        )
        return torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    every = train + test
    num_layers = len(next(iter(vectors.values())))
    fitted, held = fit[fit % 4 != 0], fit[fit % 4 == 0]

    def validated(layer: int) -> float:
        known, asked = (features(layer, rows, every, "english", "english") for rows in (fitted, held))
        return float((classify(known, answers_N[fitted], asked, len(labels)) == answers_N[held]).double().mean())

    layer = max(range(num_layers), key=validated)
    known = features(layer, fit, every, "english", "english")
    note = f"{what}; trained on {len(train)} English pairs at layer {layer}, chosen on English"
    result: Result = {}
    for cell in CELLS:
        predicted = classify(known, answers_N[fit], features(layer, check, every, *cell), len(labels))
        result["/".join(cell)] = share((predicted == answers_N[check]).numpy(), note)
    shuffled = answers_N[fit][torch.randperm(len(fit), generator=torch.Generator().manual_seed(data.seed))]
    predicted = classify(known, shuffled, features(layer, check, every, "english", "english"), len(labels))
    result["shuffled"] = share((predicted == answers_N[check]).numpy(), "control: labels shuffled before training")
    chance = float(answers_N[check].bincount().max()) / len(check)
    result["chance"] = Figure(chance, n=len(check), note="share of the most frequent label")
    accuracy = {cell: figure.value for cell in CELLS if isinstance(figure := result["/".join(cell)], Figure)}
    mixed = (accuracy["english", "target"] + accuracy["target", "english"]) / 2
    result["mixed_gap"] = Figure(accuracy["english", "english"] - mixed, n=len(check), note="english/english - mixed")
    return result


def examples(data: EvaluationData) -> tuple[list[Example], list[Example], str]:
    """Pairs to train and to test on, and what they are."""
    if data.nli_train and data.nli_test:
        return (
            data.sample(read_examples(data.nli_train, 3)),
            data.sample(read_examples(data.nli_test, 5)),
            "labelled pairs",
        )
    if data.parallel is None:
        raise NoDataError("no local data: give --nli-train and --nli-test, or --parallel")
    # Neighbours are needed, so the first sentences instead of a sample.
    pairs = dataclasses.replace(data, max_items=10**9).pairs()[: data.max_items]
    half = len(pairs) // 2
    return follow(pairs[:half], data.seed), follow(pairs[half:], data.seed), "does the sentence follow?"


def read_examples(path: Path, columns: int) -> list[Example]:
    """`label TAB premise TAB hypothesis` lines, with two more columns for the target language.

    Raises:
        DataError: a line has another number of columns, or an empty one; it is named.
    """
    result = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != columns or not all(parts):
            names = ["label", "premise", "hypothesis", "target premise", "target hypothesis"][:columns]
            raise DataError(f"{path}:{number}: expected `{' TAB '.join(names)}`")
        english, target = parts[1:3], parts[3:] or ["", ""]
        result.append(
            Example(
                parts[0],
                dict(zip(LANGUAGES, (english[0], target[0]), strict=True)),
                dict(zip(LANGUAGES, (english[1], target[1]), strict=True)),
            )
        )
    return result


def follow(pairs: Sequence[tuple[str, str]], seed: int) -> list[Example]:
    """Each sentence with its successor ("follows") or with one that stands far away ("elsewhere"), by turns."""
    draw = random.Random(f"follow {seed}")
    result = []
    for i in range(len(pairs) - 1):
        far = [j for j in range(len(pairs)) if abs(j - i) >= FAR]
        if not far:
            break
        j = i + 1 if i % 2 else draw.choice(far)
        result.append(
            Example(
                "follows" if i % 2 else "elsewhere",
                dict(zip(LANGUAGES, pairs[i], strict=True)),
                dict(zip(LANGUAGES, pairs[j], strict=True)),
            )
        )
    return result


def _vectors(subject: Subject, some: list[Example]) -> dict[str, Tensor]:
    """Of each text the mean over its tokens, [L+1, D]."""
    texts = sorted(
        {text for example in some for side in (example.premise, example.hypothesis) for text in side.values() if text}
    )
    rows = [ids[:MOST_TOKENS] for ids in subject.encode(texts)]
    vectors_LND = vectors_of(subject.model, rows, subject.start_token_id)
    return {text: vectors_LND[:, i] for i, text in enumerate(texts)}
