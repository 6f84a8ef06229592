"""mteb's side of the evaluation: an encoder that it accepts, tasks over local text, and its own tasks offline.

    sentences --embed--> vectors [N, D] --mteb's task--> scores

Import this only when needed: importing mteb takes seconds. `offline()` must be entered before a task of mteb's own is
loaded; the tasks made here read no file at all.
Shapes: N sentences, D size of a vector.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub.constants
import mteb
import numpy as np
from mteb.abstasks import AbsTaskBitextMining
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from prealign_cpt.run.errors import NumericError

Embed = Callable[[list[str]], np.ndarray]

BATCH = 64


class Encoder(AbsEncoder):
    """What mteb calls a model.

    Args:
        embed: sentences to finite vectors, float32 [N, D].
        name: of the model.
        revision: tells its results from those of every other model: a digest of the weights, the layer, the pooling.
    """

    def __init__(self, embed: Embed, name: str, revision: str) -> None:
        self._embed = embed
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"local/{name.replace('/', '-')}",
                "revision": revision,
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Vectors of all texts of a loader, in order, float32 [N, D].

        Raises:
            NumericError: one is not finite, or there are fewer than texts.
        """
        parts = []
        for batch in inputs:
            texts = list(batch["text"])
            vectors = self._embed(texts)
            if len(vectors) != len(texts) or not np.isfinite(vectors).all():
                raise NumericError(f"{len(texts)} sentences gave {len(vectors)} vectors, or some that are not finite")
            parts.append(vectors)
        return np.concatenate(parts)


def bitext_task(
    name: str, subsets: dict[str, tuple[Sequence[str], Sequence[str]]], languages: dict[str, list[str]], digest: str
) -> AbsTaskBitextMining:
    """A bitext mining task over text in memory.

    Args:
        subsets: for each direction the sentences that ask and those to be found, the n-th by the n-th.
        languages: for each direction both languages, as ISO 639-3, hyphen, ISO 15924 ("mis-Zyyy" if unknown).
        digest: of the text.
    """

    class Local(AbsTaskBitextMining):
        metadata = TaskMetadata(
            name=name,
            description="parallel text of the user's",
            type="BitextMining",
            category="t2t",
            dataset={"path": f"local/{name}", "revision": digest},
            eval_splits=["test"],
            eval_langs=languages,
            main_score="f1",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            """From memory; mteb would ask its hub."""
            self.dataset = {
                subset: datasets.DatasetDict(
                    test=datasets.Dataset.from_dict({"sentence1": list(asking), "sentence2": list(found)})
                )
                for subset, (asking, found) in subsets.items()
                if subset in self.hf_subsets
            }
            self.data_loaded = True

    return Local()


def run(encoder: Encoder, task: Any) -> dict[str, dict[str, Any]]:
    """Scores of a task by split and subset ("test/eng-deu"), computed anew.

    mteb's own cache is not used: it does not run again what changed in the data or in mteb.
    """
    with _quiet():
        found = mteb.evaluate(
            encoder,  # type: ignore[arg-type]  # it is one: mteb checks its protocol at run time
            [task],
            cache=None,
            overwrite_strategy="always",
            encode_kwargs={"batch_size": BATCH},
            co2_tracker=False,
            show_progress_bar=False,
        )
    return {
        f"{split}/{scores['hf_subset']}": dict(scores)
        for split, some in found.task_results[0].scores.items()
        for scores in some
    }


@contextmanager
def offline() -> Iterator[None]:
    """Neither mteb nor datasets may fetch anything: what is not in the local cache raises."""
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Without mteb's log lines about a model that it does not know."""
    logger = logging.getLogger("mteb")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
