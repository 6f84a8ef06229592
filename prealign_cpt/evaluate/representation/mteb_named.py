"""Tasks of mteb's own, by name: those whose data are in the local cache.

    Work.mteb_tasks ("STS22.v2", "Tatoeba:deu-eng") --mteb, offline--> one figure a task, or why there is none

A task has many languages; `NAME:SUBSET` takes one subset, as mteb names it. Vectors are the means of the last layer, or
the embeddings server's (embed.py).
"""

from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import numpy as np

from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.representation.embed import embed_local, embed_served
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.work import NoDataError, Work
from prealign_cpt.run import signals
from prealign_cpt.run.errors import PrealignError


def measure(subject: Subject, work: Work) -> Result:
    """`NAME/MAIN_SCORE`, the mean over the subsets that were asked for, by task.

    Raises:
        NoDataError: no task is named.
        DataError, UnavailableError: the embeddings server's.
    """
    if not work.mteb_tasks:
        raise NoDataError("no task of mteb is named; name some with --mteb")
    if find_spec("mteb") is None:
        return dict.fromkeys(work.mteb_tasks, Absent('mteb is not installed: pip install "prealign-cpt[eval]"'))
    from prealign_cpt.evaluate.representation import mteb_tasks

    asked: list[int] = []

    def embed(texts: list[str]) -> np.ndarray:
        signals.check()
        # mteb may pass an empty text, which has no mean.
        filled = [text if text.strip() else "." for text in texts]
        if not subject.embeddings_url:
            return embed_local(subject, filled)[-1].numpy()
        found = embed_served(subject, filled, check=not asked)
        asked.append(len(filled))
        return found

    encoder = mteb_tasks.Encoder(embed, subject.name, f"{subject.model_digest}-last")
    result: Result = {}
    with mteb_tasks.offline():
        for name in work.mteb_tasks:
            task = _task(name)
            result |= {name: task} if isinstance(task, Absent) else _scored(name, task, encoder)
    return result


def _task(named: str) -> Any:
    """The task with its data, or why it cannot be had."""
    import mteb

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


def _scored(name: str, task: Any, encoder: Any) -> Result:
    from prealign_cpt.evaluate.representation import mteb_tasks

    try:
        scores = mteb_tasks.run(encoder, task)
    except PrealignError:
        raise
    except Exception as error:
        return {name: Absent(f"mteb failed on it: {type(error).__name__}: {error}")}
    finally:
        task.unload_data()
    values = [one["main_score"] for one in scores.values()]
    note = f"mteb; {len(values)} subsets; data {task.metadata.dataset.get('revision', '')[:12]}"
    return {f"{name}/{task.metadata.main_score}": Figure(float(np.mean(values)), n=len(values), note=note)}
