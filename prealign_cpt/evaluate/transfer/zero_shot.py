"""Zero-shot cross-lingual transfer: a classifier that has seen English labels only, tested on the target language.

    labelled English text --model--> mean hidden state of a layer --> logistic regression --> English held out
                                                                                          `-> target text

PreAlign (arXiv 2407.16222) fine-tunes the model; a linear classifier on frozen features asks the same of
the representations alone and costs one forward pass. Files have `label TAB text` lines.
Shapes: N texts, L+1 layers (embeddings, then every block), D hidden size, C labels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.evaluate.figures import Figure, Result, share
from prealign_cpt.evaluate.read import Labelled
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import Work
from prealign_cpt.model.vectors import vectors_of
from prealign_cpt.run.errors import DataError

MOST_TOKENS = 128
"""Of each text, so many tokens are read."""

FOLDS = 4
L2 = 0.01
"""Weight decay of the classifier, on standardised features."""

HELDOUT = 5
"""One of so many English texts is held out."""


@dataclass(frozen=True)
class Hits:
    """Which answers were right, bool [N] each."""

    english: Tensor
    """Held-out English texts."""
    target: Tensor
    shuffled: Tensor
    """The target texts again, after training on shuffled labels."""


@dataclass(frozen=True)
class Transfer:
    """Shares of right answers."""

    acc_english: float
    """On English texts that were held out."""
    acc_target: float
    gap: float
    """acc_english - acc_target."""
    acc_shuffled: float
    """Control: target texts after training on shuffled labels; should be near `chance`."""
    chance: float
    """Share of the most frequent label among the target texts."""
    layer: int
    """Chosen by cross-validation on English training texts; 0 is the embeddings."""
    english_texts: int
    target_texts: int


def measure(subject: Subject, work: Work) -> Result:
    """`acc_english`, `acc_target`, `gap`, `relative` (acc_target / acc_english), `acc_shuffled` (the control: labels
    shuffled before training; near `chance`) and `chance` (the most frequent label).

    Raises:
        NoDataError: no labelled texts.
        DataError: too few of them; see `zero_shot_transfer`.
    """
    english, target = (work.sample(texts) for texts in work.classes())
    start = subject.start_token_id
    found, hits = zero_shot_transfer(subject.model, subject.tokenizer, english, target, start, work.seed)
    n = found.target_texts
    acc_english = share(
        hits.english.numpy(), f"held out; logistic regression on layer {found.layer}, chosen on English"
    )
    acc_target = share(hits.target.numpy(), f"layer {found.layer}; trained on English alone")
    result: Result = {
        "acc_english": acc_english,
        "acc_target": acc_target,
        "gap": Figure(acc_english.value - acc_target.value, n=n, note="acc_english - acc_target"),
        "acc_shuffled": share(hits.shuffled.numpy(), "control: labels shuffled before training; near chance"),
        "chance": Figure(found.chance, n=n, note="share of the most frequent label"),
    }
    if acc_english.value:
        result["relative"] = Figure(acc_target.value / acc_english.value, n=n, note="acc_target / acc_english")
    return result


def zero_shot_transfer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    english: list[Labelled],
    target: list[Labelled],
    start_id: int,
    seed: int,
    batch_tokens: int = 2048,
) -> tuple[Transfer, Hits]:
    """Train on four fifths of the English texts, test on the rest and on the target texts.

    Raises:
        DataError: fewer than two labels, fewer than ten English texts of one, or a target label without English texts.
    """
    labels = sorted({label for label, _ in english})
    smallest = min((sum(own == label for own, _ in english) for label in labels), default=0)
    if len(labels) < 2 or smallest < 2 * HELDOUT:
        raise DataError(
            f"evaluate.transfer_train: needs at least two labels with {2 * HELDOUT} texts each, has {len(labels)} with "
            f"{smallest} or more; give more text"
        )
    strange = sorted({label for label, _ in target} - set(labels))
    if strange or not target:
        raise DataError(f"evaluate.transfer_test: labels {strange} do not occur in evaluate.transfer_train; add them")
    texts = [text for _, text in english + target]
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    vectors_LND = vectors_of(model, [ids[:MOST_TOKENS] for ids in encoded], start_id, batch_tokens)
    answers_N = torch.tensor([labels.index(label) for label, _ in english + target])
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(english), generator=generator)
    held, train = order[: len(english) // HELDOUT], order[len(english) // HELDOUT :]
    test = torch.arange(len(english), len(texts))

    def right(layer: int, fit: Tensor, check: Tensor, fit_answers: Tensor | None = None) -> Tensor:
        own = answers_N[fit] if fit_answers is None else fit_answers
        predicted = classify(vectors_LND[layer, fit], own, vectors_LND[layer, check], len(labels))
        return predicted == answers_N[check]

    def validated(layer: int) -> float:
        folds = train.chunk(FOLDS)
        return sum(_share(right(layer, torch.cat(folds[:k] + folds[k + 1 :]), folds[k])) for k in range(len(folds)))

    layer = max(range(len(vectors_LND)), key=validated)
    shuffled = answers_N[train][torch.randperm(len(train), generator=generator)]
    hits = Hits(right(layer, train, held), right(layer, train, test), right(layer, train, test, shuffled))
    acc_english, acc_target = _share(hits.english), _share(hits.target)
    found = Transfer(
        acc_english=round(acc_english, 4),
        acc_target=round(acc_target, 4),
        gap=round(acc_english - acc_target, 4),
        acc_shuffled=round(_share(hits.shuffled), 4),
        chance=round(float(answers_N[test].bincount().max()) / len(test), 4),
        layer=layer,
        english_texts=len(english),
        target_texts=len(target),
    )
    return found, hits


def _share(hits_N: Tensor) -> float:
    return float(hits_N.double().mean())


def classify(fit_ND: Tensor, answers_N: Tensor, check_ND: Tensor, num_labels: int) -> Tensor:
    """Labels int64 of the rows of `check_ND` by a logistic regression fitted to the others."""
    mean, spread = fit_ND.mean(dim=0), fit_ND.std(dim=0).clamp(min=1e-6)
    inputs = (fit_ND - mean) / spread
    weight = torch.zeros(num_labels, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(num_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, answers_N) + L2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    return ((check_ND - mean) / spread @ weight.T + bias).argmax(dim=1)
