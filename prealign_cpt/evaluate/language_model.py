"""How well the model predicts text: bits per byte of held-out text, and parallel text against its English.

    windows of each text --log-probabilities after the start token--> bits per byte      (comparable between models)
    parallel sentences   --the same--> NLL of the target / NLL of the English            (comparable between languages)

Names are LANGUAGE/SET/FIGURE; "base/..." is the base model, "change/..." the subject less the base on the same items.
"""

import math

import numpy as np
from tqdm import tqdm

from prealign_cpt.evaluate.data import LANGUAGES, EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Array, Figure, Result
from prealign_cpt.evaluate.served import check_served
from prealign_cpt.evaluate.statistics import mean_of, with_changes
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.tokenizer import round_trips
from prealign_cpt.model.bits import batches, score_windows
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.run.errors import DataError
from prealign_cpt.serving.client import many_logprobs

LOSSLESS = 0.999
"""Below this share of texts that survive encoding and decoding, bits per byte are those of another text."""

REQUEST = 8
"""Texts in one request to a server."""

ENOUGH = 5
"""With so many documents the interval is over documents, else over windows, which are less independent."""


def measure(subject: Subject, data: EvaluationData) -> Result:
    """Per LANGUAGE/SET: `bits_per_byte` = -sum log p / (ln 2 * bytes), every token counted, each window after the start
    token; its items are the windows, weighted by their bytes. Of the parallel text: `parity_nll` = sum NLL(target) /
    sum NLL(English), 1 where both say as much.

    Raises:
        DataError, UnavailableError: see `nats_of`.
    """
    subjects = subject.with_base()
    result: Result = {}
    for language in LANGUAGES:
        for name, _ in getattr(data, language):
            for prefix, model in subjects.items():
                result[f"{prefix}{language}/{name}/bits_per_byte"] = _bits_per_byte(model, data, language, name)
        if not getattr(data, language):
            reason = f"no local data: no {language} text; give it with --{language}"
            result[f"{language}/bits_per_byte"] = Absent(reason)
    try:
        pairs = data.pairs()
    except NoDataError as error:
        result["parity_nll"] = Absent(str(error))
    else:
        for prefix, model in subjects.items():
            english, target = (nats_of(model, [pair[i] for pair in pairs], data.batch_tokens) for i in (0, 1))
            result[f"{prefix}parity_nll"] = mean_of(target / english, english)
    return with_changes(result)


def nats_of(subject: Subject, texts: list[str], batch_tokens: int) -> Array:
    """-log p of each text after the start token, fp64 [N]; through the subject's server, if it has one.

    Raises:
        DataError: a text has more tokens than the model, or its server, takes; or the server serves another model.
        UnavailableError: the server does not answer.
    """
    if subject.url:
        return _served_nats(subject, texts)
    prepared = batches(texts, subject.tokenizer, subject.start_token_id, batch_tokens)
    longest = max(batch.inputs.shape[1] for batch in prepared)
    _check_length(subject, longest, subject.model.config.max_position_embeddings)
    scored = score_windows(LanguageModelLoss(subject.model), prepared, subject.device)
    return np.array([nats for nats, _ in scored])


def _served_nats(subject: Subject, texts: list[str]) -> Array:
    served = check_served(subject)
    rows = [[subject.start_token_id, *ids] for ids in subject.encode(texts)]
    _check_length(subject, max(map(len, rows)), served.length - 1)  # the server wants room for a token of its own
    nats: list[float] = []
    for first in tqdm(range(0, len(rows), REQUEST), desc="served", unit="request", leave=False, disable=None):
        answer = many_logprobs(subject.url, served.name, rows[first : first + REQUEST], key=subject.key or None)
        nats += [-sum(values) for values in answer]
    return np.array(nats)


def _check_length(subject: Subject, longest: int, most: int) -> None:
    if longest > most:
        raise DataError(
            f"{subject.url or subject.folder}: a text has {longest} tokens, {most} are possible; give a smaller "
            "--window-bytes, or serve with a longer --max-model-len"
        )


def _bits_per_byte(subject: Subject, data: EvaluationData, language: str, name: str) -> Figure:
    documents, texts = zip(*data.windows(language, name), strict=True)
    nats = nats_of(subject, list(texts), data.batch_tokens)
    sizes = np.array([len(text.encode()) for text in texts])
    enough = len(set(documents)) >= ENOUGH
    note = f"interval over {len(set(documents))} documents" if enough else "interval over windows"
    lossless = np.mean(round_trips(subject.tokenizer, list(texts), subject.encode(texts)))
    if lossless < LOSSLESS:
        note += f"; NOT COMPARABLE: only {lossless:.1%} of the windows survive the tokenizer's round trip"
    return mean_of(nats / math.log(2) / sizes, sizes, note, np.array(documents) if enough else None)
