"""Which layers carry the language? Groups of a trained model's weights put back, and what is lost; and layers compared.

    export/, align/ --a group at its start, half-way, at random--> bits per byte, words, transfer --+--> layers.json
    the same models --hidden states of translations--> CKA and ANC by layer ------------------------+

Muller et al. (arXiv 2101.11109) re-initialised layers of mBERT and found an encoder that carries the languages and a
predictor that can be replaced. Here the start is the aligned model, whose blocks and old rows are the base's (unless
`align.trains` moved them), so that a group's worth is what continual pretraining has put there.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer

from prealign_cpt.analysis.groups import drawn_anew, groups_of, put_back
from prealign_cpt.analysis.trajectory import data_of_run, markdown, subject_of
from prealign_cpt.evaluate.data import EvaluationData, NoDataError
from prealign_cpt.evaluate.figures import Absent, Figure, Result
from prealign_cpt.evaluate.measures import MEASURES
from prealign_cpt.evaluate.sentences import LEAST, anc, cka, different, sentence_vectors
from prealign_cpt.evaluate.subject import Subject, offline
from prealign_cpt.model.tokens import new_tokens
from prealign_cpt.recipe.file import recipe_of
from prealign_cpt.run import signals
from prealign_cpt.run.errors import MissingInputError
from prealign_cpt.run.folder import alone, say
from prealign_cpt.run.manifest import atomic_write, verify

FORMAT = 1
"""Version of layers.json."""

FIGURES = {
    "target_bpb": ("language_model", ("target/{set}/bits_per_byte",)),
    "english_bpb": ("language_model", ("english/{set}/bits_per_byte",)),
    "words": ("words", ("english_to_target/p1_csls", "target_to_english/p1_csls")),
    "transfer_target": ("transfer", ("acc_target",)),
}
"""The figures that are told: of which measure, and the mean of which of its figures."""

HEADS = {"target_bpb": "target bpb", "english_bpb": "English bpb", "words": "words P@1", "transfer_target": "transfer"}


def layers(run: Path, flags: dict[str, Any]) -> str:
    """Measure the trained model, the start, and every group between; write `RUN/layers/layers.json`; text to print.

    Args:
        flags: as for `trajectory`.

    Raises:
        MissingInputError: the run has no export.
        BusyError: another evaluation works in the folder.
    """
    recipe, out, start = recipe_of(run), run / "layers", run / "align"
    if not (run / "export").is_dir() or not start.is_dir():
        raise MissingInputError(f"{run}: no trained model in it; finish it with `prealign export` and its recipe")
    verify(run / "export")
    with alone(out, "eval.lock", "evaluation"), offline():
        data = data_of_run(recipe, out, flags)
        subject = subject_of(recipe, run / "export", recipe.name)
        first_new, _ = new_tokens(recipe, AutoTokenizer.from_pretrained(start, local_files_only=True))
        model = subject.model
        groups = groups_of(model, first_new)
        everything = [part for parts in groups.values() for part in parts]
        sentences, what = _sentences(data)
        found: dict[str, dict[str, dict[str, float]]] = {}
        absent: dict[str, str] = {}
        trained, vectors = _measured(subject, data, "as trained", absent), _vectors(subject, sentences)
        with put_back(model, everything, start):
            began, vectors_began = _measured(subject, data, "all put back", absent), _vectors(subject, sentences)
        for name, parts in groups.items():
            signals.check()
            found[name] = {}
            for factor in (0.0, 0.5):
                with put_back(model, parts, start, factor):
                    found[name][f"{factor:g}"] = _measured(subject, data, f"{name} at {factor:g}", absent)
            with drawn_anew(model, parts, recipe.seed):
                found[name]["random"] = _measured(subject, data, f"{name} at random", absent)
    alike = {"of": what, "pairs": len(sentences), "layers": _alike(vectors_began, vectors)} if sentences else {}
    content: dict[str, Any] = {
        "format": FORMAT, "run": recipe.name, "language": recipe.language, "trained": trained, "start": began,
        "groups": found, "alike": alike, "absent": absent,
    }  # fmt: skip
    content["reading"] = reading(content)
    atomic_write(out / "layers.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return table(content)


def _measured(subject: Subject, data: EvaluationData, what: str, absent: dict[str, str]) -> dict[str, float]:
    """The figures of the model as it is now; why others are not there goes to `absent`."""
    results: dict[str, Result] = {}
    values: dict[str, float] = {}
    for key, (measure, names) in FIGURES.items():
        if measure not in results:
            try:
                results[measure] = MEASURES[measure](subject, data)
            except NoDataError as error:
                results[measure] = {measure: Absent(str(error))}
        sets = getattr(data, names[0].partition("/")[0], None)
        names = tuple(name.format(set=sets[0][0]) for name in names) if sets else names
        figures = [one for name in names if isinstance(one := results[measure].get(name), Figure)]
        if len(figures) == len(names):
            values[key] = sum(one.value for one in figures) / len(figures)
        else:
            reasons = [one.reason for one in results[measure].values() if isinstance(one, Absent)]
            absent.setdefault(key, reasons[0] if reasons else "not measured")
    say(f"layers: {what}: {', '.join(f'{HEADS[key]} {value:.3f}' for key, value in values.items())}")
    return values


def _sentences(data: EvaluationData) -> tuple[list[tuple[str, str]], str]:
    """(English, target): parallel lines; without any, held-out pairs of the lexicon; too few are none."""
    try:
        pairs, what = different(data.pairs()), "parallel lines"
    except NoDataError:
        try:
            pairs = different(data.sample([(pair.source, pair.target) for pair in data.lexicon()[1]]))
        except NoDataError:
            pairs = []
        what = "held-out words of the lexicon"
    return (pairs if len(pairs) >= LEAST else []), what


def _vectors(subject: Subject, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor] | None:
    """Of English and target, fp32 [L+1, N, D]."""
    if not pairs:
        return None
    english, target = (sentence_vectors(subject, [pair[side] for pair in pairs]) for side in (0, 1))
    return english, target


def _alike(began: Any, trained: Any) -> list[dict[str, float]]:
    """By layer, each by CKA and ANC: start and trained model on English and on the target; English and target in the
    start and in the trained model, and there beside wrong translations."""
    rows = []
    for english_0, target_0, english, target in zip(*began, *trained, strict=True):
        compared = {
            "english": (english_0, english), "target": (target_0, target), "languages_start": (english_0, target_0),
            "languages": (english, target), "mismatched": (english, target.roll(1, dims=0)),
        }  # fmt: skip
        rows.append({f"{name}_{kind.__name__}": kind(*pair) for name, pair in compared.items() for kind in (cka, anc)})
    return rows


def worth(content: dict[str, Any], key: str = "target_bpb") -> dict[str, float]:
    """By group, the bits per byte that are lost where it is put back to its start."""
    return {name: by["0"][key] - content["trained"][key] for name, by in content["groups"].items()}


def reading(content: dict[str, Any]) -> str:
    """The table in a sentence."""
    if "target_bpb" not in content["trained"]:
        return "No target text was scored, so nothing can be said of the groups."
    gain = content["start"]["target_bpb"] - content["trained"]["target_bpb"]
    lost = worth(content)
    most, least = max(lost, key=lambda name: lost[name]), min(lost, key=lambda name: lost[name])
    english = worth(content, "english_bpb") if "english_bpb" in content["trained"] else {}
    told = f" (English {english[most]:+z.3f})" if english else ""
    return (
        f"Training gained {gain:.3f} bits per byte in {content['language']}; put back alone, {most} cost most of it, "
        f"{lost[most]:+z.3f}{told}, and {least} least, {lost[least]:+z.3f}."
    )


def rows(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Head and lines of the table of groups: figures less those of the trained model, which stand in the first line."""
    keys = [key for key in FIGURES if key in content["trained"]]
    found = [
        ("weights", *(HEADS[key] for key in keys)),
        ("trained", *(f"{content['trained'][key]:.3f}" for key in keys)),
    ]
    states = {"all": {"0": content["start"]}} | content["groups"]
    for name, by in states.items():
        for state, values in by.items():
            what = {"0": "put back", "0.5": "half-way back", "random": "at random"}[state]
            changes = (f"{values[key] - content['trained'][key]:+z.3f}" if key in values else "-" for key in keys)
            found.append((f"{name}, {what}", *changes))
    return found


ALIKE = {
    "English: start, trained": "english",
    "target: start, trained": "target",
    "English, target: start": "languages_start",
    "English, target: trained": "languages",
    "wrong translations": "mismatched",
}
"""What is compared by layer, and its name in layers.json."""


def alike_rows(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Head and lines of the table by layer: CKA / ANC; empty where nothing was compared."""
    if not content["alike"]:
        return []
    lines = [
        (str(layer), *(f"{row[f'{name}_cka']:z.2f} / {row[f'{name}_anc']:.2f}" for name in ALIKE.values()))
        for layer, row in enumerate(content["alike"]["layers"])
    ]
    return [("layer", *ALIKE), *lines]


def table(content: dict[str, Any]) -> str:
    """Both tables and the sentence, for a terminal."""
    parts = [markdown(rows(content)), content["reading"]]
    if alike := alike_rows(content):
        parts += [f"CKA / ANC of {content['alike']['pairs']} {content['alike']['of']}:", markdown(alike)]
    return "\n\n".join([*parts, *(f"- absent: {key}: {reason}" for key, reason in content["absent"].items())])
