"""The eval stage of a run: base, aligned and trained model by the preset "quick", and one summary.

    base, align/, export/ --suite, quick--> eval/MODEL/MEASURE.json --> eval/report.json

`prealign eval RUN` measures the same figures again, with everything else. Nothing in a run depends on them.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from prealign_cpt.evaluate.data import LANGUAGES, EvaluationData, data_of
from prealign_cpt.evaluate.figures import Absent, Figure, Outcome, Result
from prealign_cpt.evaluate.generation import NO_LETTER
from prealign_cpt.evaluate.measures import chosen
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.suite import run_suite
from prealign_cpt.recipe.schema import HELD_OUT_SETS, Recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write, verify


def build_eval(
    recipe: Recipe, base: Path, aligned: Path, export: Path, lexicon: Path, out: Path, device: torch.device
) -> None:
    """Fill `out` with the measures of each model, `out/MODEL/MEASURE.json`, and `out/report.json`.

    The report is {"models": {"base": S, "aligned": S, "trained": S}}; S is `summary`'s.

    Args:
        base, aligned, export: folders of the base model, of the extended one before training (left out where nothing
            was added), and of the trained one; only the last is scored unless `evaluate.before_training`.
        lexicon: folder with the split lexicon.

    Raises:
        DataError: the export is not as it was written, or a measure failed; it is named.
    """
    verify(export)
    folders = {"trained": export}
    if recipe.evaluate.before_training:
        folders = {"base": base} | ({"aligned": aligned} if recipe.vocab.size else {}) | folders
    data = data_of(recipe, lexicon)
    models: dict[str, Any] = {}
    for name, folder in folders.items():
        subject = Subject(
            folder,
            name=name,
            device=device.type,
            dtype=recipe.train.precision,
            start_token=recipe.base.start_token,
        )
        outcomes = run_suite(subject, data, out / name, chosen("quick"))
        (out / name / "eval.lock").unlink()
        for measure, outcome in outcomes.items():
            if outcome.status == "failed":
                reasons = "; ".join(dict.fromkeys(getattr(absent, "reason", "") for absent in outcome.result.values()))
                raise DataError(f"eval: {measure} of the {name} model: {reasons}")
        models[name] = summary(subject, data, outcomes)
        subject.unload()
        say(f"eval: {name}: {_line(models[name])}")
    atomic_write(out / "report.json", json.dumps({"models": models}, indent=1))


def summary(subject: Subject, data: EvaluationData, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """What the report and the comparisons read of one model:

    `valid`, `test`, `general`: {"target_bpb", "target_bytes", "target_tokens", the same of English, "windows"}; windows
        are by language [[nats, bytes], ...] in the order of the text, cut in bytes, so that two models can be compared
        window by window, whatever their tokenizers.
    `retrieval`: {"p1", "words", "candidates", "layer", "seen_p1"}: P@1 by CSLS of held-out English words.
    `clka`: {"groups": {"GROUP/LANGUAGE": {"accuracy", "mrr", "questions"}}, "chance", "transfer": {"A_to_B"}}.
    `transfer`: {"acc_english", "acc_target", "gap", "acc_shuffled", "chance", "layer", "target_texts"}.
    `mixed`: {"target", "english": share of letters of the other script, "target_letters", ...}, or None and a "reason".

    `by_source`: {"target", "english": {source: bits per byte of its held-out text}}, where a side has several; "words":
        {source: P@1 of its own held-out words}, where several have a word list.

    What was not measured is not there.
    """
    scores = _texts(subject, data, outcomes["language_model"].result)
    for language in LANGUAGES:
        for name, _ in getattr(data, language):
            if name.startswith("test/"):
                bits = _value(outcomes["language_model"].result, f"{language}/{name}/bits_per_byte")
                scores.setdefault("by_source", {}).setdefault(language, {})[name.removeprefix("test/")] = bits
    words = outcomes["words"].result
    if isinstance(p1 := words.get("english_to_target/p1_csls"), Figure):
        scores["retrieval"] = {
            "p1": round(p1.value, 4),
            "words": p1.n,
            "candidates": _value(words, "english_to_target/candidates"),
            "layer": _value(words, "english_to_target/layer"),
            "seen_p1": _value(words, "english_to_target/p1_csls_seen"),
        }
    for name, _ in data.by_language():
        found = scores.setdefault("by_source", {}).setdefault("words", {})
        found[name] = _value(words, f"english_to_target/p1_csls/{name}")
    if outcomes["clka"].status == "done":
        scores["clka"] = _facts(outcomes["clka"].result)
    if outcomes["transfer"].status == "done":
        result = outcomes["transfer"].result
        names = ("acc_english", "acc_target", "gap", "acc_shuffled", "chance", "layer")
        target = result["acc_target"]
        scores["transfer"] = {name: _value(result, name) for name in names} | {"target_texts": getattr(target, "n", 0)}
    if data.mixed_prompts:
        scores["mixed"] = {}
        for side in LANGUAGES:
            figure = outcomes["mixed_output"].result.get(f"mixed/{side}")
            scores["mixed"][side] = round(figure.value, 4) if isinstance(figure, Figure) else None
            if isinstance(figure, Absent) and figure.reason != NO_LETTER:
                scores["mixed"]["reason"] = figure.reason
            else:
                items = figure.items if isinstance(figure, Figure) else None
                scores["mixed"][f"{side}_letters"] = int(items.weights.sum()) if items else 0
    return scores


def _texts(subject: Subject, data: EvaluationData, result: Result) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name in HELD_OUT_SETS:
        for language in LANGUAGES:
            figure = result.get(f"{language}/{name}/bits_per_byte")
            if not isinstance(figure, Figure) or figure.items is None:
                continue
            sizes = figure.items.weights.astype(int)
            nats = figure.items.values * sizes * math.log(2)
            texts = [text for _, text in data.windows(language, name)]
            entry = scores.setdefault(name, {"windows": {}})
            entry[f"{language}_bpb"] = round(figure.value, 4)
            entry[f"{language}_bytes"] = int(sizes.sum())
            entry[f"{language}_tokens"] = sum(map(len, subject.encode(texts)))
            entry["windows"][language] = [
                [round(n, 3), size] for n, size in zip(nats.tolist(), sizes.tolist(), strict=True)
            ]
    return scores


def _facts(result: Result) -> dict[str, Any]:
    groups = {
        name.removeprefix("accuracy/"): {
            "accuracy": round(figure.value, 4),
            "mrr": _value(result, name.replace("accuracy/", "mrr/")),
            "questions": figure.n,
        }
        for name, figure in result.items()
        if name.startswith("accuracy/") and isinstance(figure, Figure)
    }
    ways = [name for name in result if name.startswith("transfer/")]
    crossed = {name.removeprefix("transfer/"): _value(result, name) for name in ways}
    return {"groups": groups, "chance": _value(result, "chance"), "transfer": crossed}


def _value(result: Result, name: str) -> float | None:
    """Rounded; whole numbers stay whole."""
    figure = result.get(name)
    if not isinstance(figure, Figure):
        return None
    return int(figure.value) if isinstance(figure.value, int) else round(figure.value, 4)


def _line(scores: dict[str, Any]) -> str:
    test = scores["test"]
    words = f", held-out words P@1 {scores['retrieval']['p1']:.3f}" if "retrieval" in scores else ""
    apart = "".join(
        f", {name} {bits:.3f}" for side in LANGUAGES for name, bits in scores.get("by_source", {}).get(side, {}).items()
    )
    return f"target {test['target_bpb']:.3f}, English {test['english_bpb']:.3f} bits per byte{apart}{words}"
