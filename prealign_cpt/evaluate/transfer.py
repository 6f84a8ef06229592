"""Zero-shot cross-lingual transfer: a classifier that has seen English labels only, tested on the target language.

    labelled English text --model--> mean hidden state of a layer --> logistic regression --> English held out
                                                                                          `-> target text

PreAlign (arXiv 2407.16222) fine-tunes the model; a linear classifier on frozen features asks the same of the
representations alone and costs one forward pass.
Shapes: N texts, L+1 layers (embeddings, then every block), D hidden size, C labels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prealign_cpt.evaluate.data import EvaluationData
from prealign_cpt.evaluate.figures import Figure, Result
from prealign_cpt.evaluate.statistics import share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.model.vectors import vectors_of
from prealign_cpt.run.errors import DataError

MOST_TOKENS = 128
"""Of each text, so many tokens are read."""

FOLDS = 4
"""Parts of the English training items; each in turn says how good a layer is."""

L2 = 0.01
"""Weight decay of the classifier, on standardised features."""

HELDOUT = 5
"""One of so many English texts is held out."""


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`acc_english` (held out), `acc_target`, `gap`, `relative` (acc_target / acc_english), `acc_shuffled` (the
    control: target texts after training on shuffled labels), `chance` (the most frequent label) and `layer`, chosen by
    cross-validation on English. `layer/N/acc_english`, `acc_target`: the same at each layer.

    Raises:
        NoDataError: no labelled texts.
        DataError: fewer than two labels, fewer than ten English texts of one, or a target label without English texts.
    """
    english, target = data.classes()
    labels = sorted({label for label, _ in english})
    smallest = min((sum(own == label for own, _ in english) for label in labels), default=0)
    if len(labels) < 2 or smallest < 2 * HELDOUT:
        raise DataError(
            f"{data.classes_train}: needs at least two labels with {2 * HELDOUT} texts each, has {len(labels)} with "
            f"{smallest} or more; give more text"
        )
    strange = sorted({label for label, _ in target} - set(labels))
    if strange or not target:
        raise DataError(f"{data.classes_test}: labels {strange} do not occur in {data.classes_train}; add them")
    rows = [ids[:MOST_TOKENS] for ids in subject.encode([text for _, text in english + target])]
    vectors_LND = vectors_of(subject.model, rows, subject.start_token_id)
    answers_N = torch.tensor([labels.index(label) for label, _ in english + target])
    generator = torch.Generator().manual_seed(data.seed)
    order = torch.randperm(len(english), generator=generator)
    held, train = order[: len(english) // HELDOUT], order[len(english) // HELDOUT :]
    test = torch.arange(len(english), len(answers_N))
    layer = _best_layer(vectors_LND[:, train], answers_N[train])

    def hits(of_layer: int, answers_T: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Of English held out, and of the target."""
        features_ND, check = vectors_LND[of_layer], torch.cat([held, test])
        right = classify(features_ND[train], answers_T, features_ND[check], len(labels)) == answers_N[check]
        return right[: len(held)].numpy(), right[len(held) :].numpy()

    by_layer = [hits(of_layer, answers_N[train]) for of_layer in range(len(vectors_LND))]
    shuffled = answers_N[train][torch.randperm(len(train), generator=generator)]
    acc_english = share(by_layer[layer][0], f"held out; logistic regression on layer {layer}, chosen on English")
    acc_target = share(by_layer[layer][1], f"layer {layer}; trained on English alone")
    chance = float(answers_N[test].bincount().max()) / len(test)
    result: Result = {
        "acc_english": acc_english,
        "acc_target": acc_target,
        "gap": Figure(acc_english.value - acc_target.value, n=len(test), note="acc_english - acc_target"),
        "acc_shuffled": share(hits(layer, shuffled)[1], "control: labels shuffled before training; near chance"),
        "chance": Figure(chance, n=len(test), note="share of the most frequent label"),
        "layer": Figure(layer, note=f"of {len(vectors_LND) - 1}"),
    }
    if acc_english.value:
        relative = acc_target.value / acc_english.value
        result["relative"] = Figure(relative, n=len(test), note="acc_target / acc_english")
    for number, found in enumerate(by_layer):
        for name, hits_N in zip(("acc_english", "acc_target"), found, strict=True):
            result[f"layer/{number}/{name}"] = Figure(float(hits_N.mean()), n=len(hits_N))
    return result


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


def _best_layer(layers_LND: Tensor, answers_N: Tensor) -> int:
    """The layer whose features classify best what was left out, over FOLDS parts."""
    folds = torch.arange(len(answers_N)).chunk(FOLDS)

    def validated(features_ND: Tensor) -> float:
        right = 0.0
        for k, check in enumerate(folds):
            fit = torch.cat(folds[:k] + folds[k + 1 :])
            predicted = classify(features_ND[fit], answers_N[fit], features_ND[check], int(answers_N.max()) + 1)
            right += float((predicted == answers_N[check]).double().mean())
        return right

    return max(range(len(layers_LND)), key=lambda layer: validated(layers_LND[layer]))
