"""Tasks of mteb's own, by name: those whose data are in the local cache.

    EvaluationData.mteb_tasks ("STS22.v2", "Tatoeba:deu-eng") --mteb--> one figure a task, or why there is none

A task has many languages; `NAME:SUBSET` takes one subset, as mteb names it. Vectors are the means of the last layer, or
the embeddings server's (sentences.py). Importing mteb takes seconds: suite.py imports this module when it is needed.
Shapes: N sentences, D size of a vector.
"""

import logging
import warnings
from difflib import get_close_matches
from typing import Any

import mteb
import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.sentences import embed_local, embed_served
from prealign_cpt.evaluate.subject import Subject, offline
from prealign_cpt.run import signals
from prealign_cpt.run.errors import NumericError, PrealignError

BATCH = 64


def measure(subject: Subject, data: EvaluationData) -> Result:
    """`NAME/MAIN_SCORE`, the mean over the subsets that were asked for, by task.

    Raises:
        NoDataError: no task is named.
        DataError, UnavailableError: the embeddings server's.
    """
    if not data.mteb_tasks:
        raise NoDataError("no task of mteb is named; name some with --mteb")
    encoder = Encoder(subject)
    result: Result = {}
    with offline():
        for name in data.mteb_tasks:
            task = _task(name)
            result |= {name: task} if isinstance(task, Absent) else _scored(name, task, encoder)
    return result


class Encoder(AbsEncoder):
    """What mteb calls a model."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._checked = False
        # By the revision mteb tells its results from those of every other model.
        revision = f"{subject.model_digest}-{'served' if subject.embeddings_url else 'last'}"
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"local/{subject.name.replace('/', '-')}",
                "revision": revision,
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Vectors of all texts of a loader, in order, float32 [N, D].

        Raises:
            NumericError: one is not finite.
        """
        return np.concatenate([self._embed(list(batch["text"])) for batch in inputs])

    def _embed(self, texts: list[str]) -> np.ndarray:
        signals.check()
        filled = [text if text.strip() else "." for text in texts]  # mteb may pass an empty text, which has no mean
        if self._subject.embeddings_url:
            vectors_ND = embed_served(self._subject, filled, check=not self._checked)
            self._checked = True
        else:
            vectors_ND = embed_local(self._subject, filled)[-1].numpy()
        if not np.isfinite(vectors_ND).all():
            raise NumericError(f"{self._subject.folder}: a sentence's vector is not finite")
        return vectors_ND


def _task(named: str) -> Any:
    """The task with its data, or why it cannot be had."""
    name, _, subset = named.partition(":")
    try:
        task = mteb.get_task(name, hf_subsets=[subset] if subset else None)
    except ValueError as error:
        return Absent(f"{named}: no such subset: {error}")
    except KeyError:
        near = get_close_matches(name, [task.metadata.name for task in mteb.get_tasks()], n=3)
        return Absent(f"mteb has no task {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    try:
        task.load_data()
    except (OSError, ValueError) as error:  # datasets raises either for what is not in its cache
        reason = " ".join(str(error).split())[:200]
        return Absent(f"{name}: its data are not in the local cache ({task.metadata.dataset['path']}): {reason}")
    return task


def _scored(name: str, task: Any, encoder: Encoder) -> Result:
    """Computed anew: mteb's own cache does not see what changed in the data or in mteb."""
    logger = logging.getLogger("mteb")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it does not know the model, and says so in lines
    try:
        with warnings.catch_warnings(action="ignore"):
            found = mteb.evaluate(
                encoder,  # type: ignore[arg-type]  # it is one: mteb checks its protocol at run time
                [task],
                cache=None,
                overwrite_strategy="always",
                encode_kwargs={"batch_size": BATCH},
                co2_tracker=False,
                show_progress_bar=False,
            )
    except PrealignError:
        raise
    except Exception as error:
        return {name: Absent(f"mteb failed on it: {type(error).__name__}: {error}")}
    finally:
        logger.setLevel(level)
        task.unload_data()
    values = [scores["main_score"] for split in found.task_results[0].scores.values() for scores in split]
    note = f"mteb; {len(values)} subsets; data {task.metadata.dataset.get('revision', '')[:12]}"
    return {f"{name}/{task.metadata.main_score}": Figure(float(np.mean(values)), n=len(values), note=note)}
