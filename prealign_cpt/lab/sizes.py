"""`prealign sizes`: what new tokens give or cost at a run's budget, and the choice of vocab.size = "auto".

    recipe --a short run for each size, equal compute--> RUNS/NAME-sizes/BYTES-DIGEST/new-SIZE    (ordinary run folders)
           --bits per byte against FLOPs, of each and of size 0--> RUNS/NAME-sizes/{sizes.json, table.md}

Size 0 is the base with its own tokens and no alignment; it reads so many bytes, and the others train for as many steps
as fit into its FLOPs beside their own stages before training (compare/budget.py). Each trial is a whole schedule in
small, so what is compared is what a run of that length ends with.

The prediction: in the second half of a trial, bits less those of size 0 at equal compute, a line in the logarithm of
the compute, read at the compute of the run. A gap that seems to close is not trusted: the line rises or is level.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prealign_cpt.advise.fertility import SIZES as NUMBERS
from prealign_cpt.evaluate.statistics import Curve
from prealign_cpt.lab.compare.budget import Plan, measured, plan
from prealign_cpt.lab.compare.variants import BASE
from prealign_cpt.model.base import resolve_base
from prealign_cpt.prepare import check_inputs
from prealign_cpt.recipe.file import as_flags, load_recipe
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.run import launch
from prealign_cpt.run.digests import Digests
from prealign_cpt.run.errors import NumericError, PrealignError, RecipeError
from prealign_cpt.run.folder import ORDER, say
from prealign_cpt.run.manifest import NAME as MANIFEST
from prealign_cpt.run.manifest import atomic_write, read_manifest
from prealign_cpt.stages import of_recipe
from prealign_cpt.train.metrics import Log

SIZES = (0, *NUMBERS)

TRIAL_BYTES = 150_000
"""Of target text for the trial of size 0, unless the text or the run's budget is smaller."""

EVALUATIONS = 8
"""Of a trial while it trains, at most."""

NOISE = 0.005
"""Bits per byte by which a size must be predicted below the base to be chosen. Seeds of one recipe differ by 0.002 to
0.02 (benchmarks/results/bakeoff.md); trials share theirs."""

CHOICE = "sizes.json"

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """What a trial found; tokens and bits are those of the validation text."""

    size: int
    """As it was asked for."""
    new_tokens: int
    tokens_per_word: float
    bytes_per_token: float
    """Relative to the base's."""
    plan: Plan
    bits: list[dict[str, float]]
    """`step`, `target_bpb`, `english_bpb` of each evaluation, the first before training."""

    @property
    def curve(self) -> Curve:
        """(FLOPs, bits per byte of target text), those before training first."""
        return [(self.plan.flops(int(point["step"])), point["target_bpb"]) for point in self.bits]


def sizes(
    path: Path, flags: list[str], wanted: Sequence[int] = (), trial_bytes: int | None = None, num_processes: int = 0
) -> Row:
    """Make the trials that are not there yet, predict and choose; write and print the table.

    Args:
        flags: recipe keys, for all trials.
        wanted: numbers of new tokens, by default `SIZES`; 0 is always among them. The list ends where the text offers
            no more.
        trial_bytes: target text that size 0 reads; by default `TRIAL_BYTES` or what is less.
        num_processes: ranks; 0: one for each GPU, one on a CPU.

    Returns:
        the content of `sizes.json`.

    Raises:
        RecipeError, MissingInputError, DataError: the recipe fixes its new tokens, a number is impossible, or an input
            is wrong; nothing has been started then.
        what the stages raise; a size whose alignment or training fails by its figures is only left out.
    """
    recipe = load_recipe(path, flags, auto=True)
    if recipe.vocab.tokenizer or recipe.align.rows:
        raise RecipeError("prealign sizes: vocab.tokenizer and align.rows are of one size; remove them from the recipe")
    if min(wanted, default=0) < 0 or (trial_bytes is not None and trial_bytes < 1):
        raise RecipeError(
            f"--sizes {list(wanted)}, --trial-bytes {trial_bytes}: sizes are at least 0, bytes at least 1"
        )
    check_inputs(recipe)
    if not _has_text(recipe):
        launch.start(["prepare", str(path), *flags, "--skip", "lexicon,vocab,data,init"])
    folder, inputs = _folder(recipe), _inputs(recipe, save=True)
    trial_bytes = trial_bytes or _default_bytes(recipe)
    # Trials do not hang on the length of the run, but for the share of it in which only new rows move.
    own = {key: value for key, value in inputs.items() if key != "train.steps" or recipe.train.rows_steps}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    trials = folder / f"{trial_bytes}-{digest[:8]}"
    found, failed, most_flops = _trials(
        path, flags, trials, sorted({0, *(wanted or SIZES)}), trial_bytes, num_processes
    )
    choice = _choice(found, found[0].plan.flops(recipe.train.steps))
    choice |= {"inputs": inputs, "trial_bytes": trial_bytes, "trial_flops": most_flops, "trials": trials.name}
    text = _markdown(recipe, choice, failed)
    atomic_write(folder / CHOICE, json.dumps(choice | {"failed": failed}, indent=1) + "\n")
    atomic_write(folder / "table.md", text)
    print(text, end="")
    say(f"sizes: the table is {folder / 'table.md'}; the trials in {trials} may be deleted")
    return choice


def resolve(path: Path, flags: list[str], num_processes: int | None) -> tuple[list[str], Path]:
    """For a recipe with `vocab.size = "auto"`: the flags that put the choice in its place, and the trials' folder.

    Args:
        num_processes: ranks for trials that are missing; None: make none.

    Raises:
        RecipeError: nothing was chosen for this recipe and text, and trials are not to be made here.
        what `sizes` raises.
    """
    recipe = load_recipe(path, flags, auto=True)
    folder, choice = _folder(recipe), _read(recipe)
    if choice is None and num_processes is None:
        raise RecipeError(
            f'vocab.size: "auto": {folder / CHOICE} is missing or of another recipe, budget or text; choose with '
            f"`prealign sizes {path}` and the same flags, in one process, or give a number"
        )
    if choice is None:
        say('vocab.size = "auto": short trials first, to choose a number')
        choice = sizes(path, flags, num_processes=num_processes or 0)
    else:
        say(f'vocab.size = "auto": {choice["why"]}')
    return [*flags, *as_flags(choice["changes"])], folder / choice["trials"]


def predicted_gap(own: Curve, base: Curve, budget: float) -> float:
    """Bits per byte above the base, at equal compute, that a trial predicts for a budget.

    Args:
        own, base: (FLOPs, bits per byte), FLOPs rising; the base's begin at 0.
        budget: FLOPs of the whole run; where the trial was as long, its end is the answer.
    """
    flops, bits = np.array(own).T
    base_flops, base_bits = np.array(base)[1:].T
    late = flops >= flops[-1] / 2
    x, x_base = np.log(flops[late]), np.log(base_flops)
    gaps = bits[late] - np.interp(x, x_base, base_bits)
    if budget <= base_flops[-1]:
        return float(gaps[-1])
    centred = x - x.mean()
    slope = float(centred @ gaps / (centred @ centred)) if len(x) > 1 else 0.0
    return float(gaps.mean() + max(slope, 0.0) * (np.log(budget) - x.mean()))


def _changes(size: int) -> dict[str, Any]:
    """Recipe keys of a size, in its trial and in the run that it is chosen for."""
    return {**BASE, "train.rows_steps": 0} if size == 0 else {"vocab.size": size}


def _trials(
    path: Path, flags: list[str], folder: Path, wanted: list[int], trial_bytes: int, num_processes: int
) -> tuple[list[Trial], dict[str, str], float]:
    """The trials, that of size 0 first; why some failed, by size; the FLOPs that each may use."""
    found: list[Trial] = []
    failed: dict[str, str] = {}
    most_flops = 0.0
    for number, size in enumerate(wanted, start=1):
        say(f"sizes: trial {number} of at most {len(wanted)}: {size} new tokens")
        try:
            trial = _trial(path, flags, folder, size, trial_bytes, most_flops or None, num_processes)
        except PrealignError as error:  # a gate, a loss that is not finite, or no step fits beside the alignment
            if not found or not (isinstance(error, RecipeError) or error.exit_code == NumericError.exit_code):
                raise
            failed[str(size)] = str(error)
            continue
        most_flops = most_flops or trial.plan.flops(trial.plan.steps)
        if trial.new_tokens > max((one.new_tokens for one in found), default=-1):
            found.append(trial)
        if trial.new_tokens < size:
            say(f"sizes: the text offers {trial.new_tokens} new tokens, so there are no larger sizes")
            break
    return found, failed, most_flops


def _trial(
    path: Path, flags: list[str], folder: Path, size: int, trial_bytes: int, most_flops: float | None, ranks: int
) -> Trial:
    """One trial, made if it is not there."""
    flags = [*flags, *as_flags(_changes(size) | {"name": f"new-{size}", "out": str(folder)})]
    recipe, reuse = load_recipe(path, flags), ["--reuse", str(folder)]
    run, settings = recipe.run, recipe.train
    if not (run / "train" / "summary.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if not (run / "align" / MANIFEST).is_file():
            launch.start(["align", str(path), *flags, *reuse], ranks)
        budget = plan(recipe, trial_bytes, most_flops)
        budget.write(run)
        short = {
            "train.steps": budget.steps,
            "train.rows_steps": settings.rows_steps * budget.steps // settings.steps,
            "train.eval_every": -(-budget.steps // EVALUATIONS),
            "train.save_every": budget.steps,
            "train.log": [],
        }
        launch.start(["train", str(path), *flags, *as_flags(short), *reuse], ranks)
        for checkpoint in run.glob("train/step-*"):
            shutil.rmtree(checkpoint)  # twice the model and more, and nothing reads it
    tokens = json.loads((run / "vocab" / "report.json").read_text(encoding="utf-8"))
    logged = Log(run / "metrics.jsonl", active=False).rows()
    valid = {row["step"]: row["valid"] for row in logged if "valid" in row}  # a repeated step counts as it was last
    return Trial(
        size=size,
        new_tokens=tokens["new_tokens"],
        tokens_per_word=tokens["fertility_after"],
        bytes_per_token=tokens["bytes_per_token_after"] / tokens["bytes_per_token_before"],
        plan=Plan.read(run),
        bits=[{"step": step, **valid[step]} for step in sorted(valid)],
    )


def _choice(found: list[Trial], budget: float) -> Row:
    """The rows of the table, the size that is chosen, and why."""
    base = found[0]
    rows: list[Row] = []
    for trial in found:
        costs = trial.plan.costs(trial.plan.steps)
        rows.append(
            {
                "size": trial.size,
                "new_tokens": trial.new_tokens,
                "tokens_per_word": trial.tokens_per_word,
                "bytes_per_token": trial.bytes_per_token,
                "before": trial.bits[0]["target_bpb"],
                "end": trial.bits[-1]["target_bpb"],
                "gap": predicted_gap(trial.curve, base.curve, 0.0),
                "predicted_gap": predicted_gap(trial.curve, base.curve, budget),
                "english_before": trial.bits[0]["english_bpb"],
                "english_end": trial.bits[-1]["english_bpb"],
                **{key: costs[key] for key in ("flops_rows", "flops_alignment", "flops_training")},
                "curve": trial.curve,
            }
        )
    best = min(rows[1:], key=lambda row: float(row["predicted_gap"]), default=rows[0])
    chosen = best if best["predicted_gap"] < -NOISE else rows[0]
    return {
        "chosen": chosen["size"],
        "changes": _changes(chosen["size"]),
        "why": _why(best, chosen),
        "budget_flops": budget,
        "noise": NOISE,
        "rows": rows,
    }


def _why(best: Row, chosen: Row) -> str:
    if best["size"] == 0:
        return "0 new tokens: no other size could be tried"
    gap, tokens = best["predicted_gap"], 1 - 1 / best["bytes_per_token"]
    told = (
        f"{gap:+.3f} bits per byte against the base with its own tokens at the run's compute, with {tokens:.0%} fewer "
        f"tokens, so about {best['bytes_per_token']:.2f} times the characters per second when serving (in proportion "
        "to bytes per token, not measured)"
    )
    if chosen is best:
        return f"{best['new_tokens']:,} new tokens: predicted {told}"
    other = f"the best other size, {best['new_tokens']:,}, is predicted {told}"
    return f"0 new tokens: {other}; a size is chosen below -{NOISE}"


def _markdown(recipe: Recipe, choice: Row, failed: dict[str, str]) -> str:
    longer = choice["budget_flops"] / choice["trial_flops"]
    lines = [
        f"## {recipe.name}: {recipe.language}, {recipe.base.model}, new tokens",
        "",
        f"Bits per byte of the validation text, one seed. A trial has {choice['trial_flops']:.3g} FLOPs, all stages "
        f"counted; with them the base reads {choice['trial_bytes']:,} bytes of target text. The run has "
        f"{longer:.3g} times as many. Difference: to 0 new tokens at equal compute, at the end of the trial and "
        "predicted for the run.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
    ]
    for row in choice["rows"]:
        cells = [
            f"{row['new_tokens']:,}" + (" **chosen**" if row["size"] == choice["chosen"] else ""),
            f"{row['tokens_per_word']:.2f}",
            f"{row['bytes_per_token']:.2f}",
            f"{row['before']:.3f}",
            f"{row['end']:.3f}",
            *(f"{row[key]:+.3f}" if row["size"] else "–" for key in ("gap", "predicted_gap")),
            f"{row['english_before']:.3f} → {row['english_end']:.3f}",
            " + ".join(f"{row[f'flops_{part}']:.2g}" for part in ("rows", "alignment", "training")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Chosen: {choice['why']}."]
    lines += [f"- {size} new tokens: left out: {reason}" for size, reason in failed.items()]
    return "\n".join(lines) + "\n"


COLUMNS = (
    "new tokens", "tokens a word", "bytes a token, of the base's", "before training", "trial's end",
    "difference there", "predicted difference", "English", "FLOPs (rows + alignment + training)",
)  # fmt: skip


def _folder(recipe: Recipe) -> Path:
    return recipe.run.with_name(f"{recipe.name}-sizes")


def _read(recipe: Recipe) -> Row | None:
    """The choice that was made for a recipe, its budget and its texts; None if there is none."""
    try:
        choice: Row = json.loads((_folder(recipe) / CHOICE).read_text(encoding="utf-8"))
        return choice if choice["inputs"] == _inputs(recipe) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _inputs(recipe: Recipe, save: bool = False) -> Row:
    """What the choice hangs on: what the stages up to training read, and what their models are scored on."""
    digests = Digests(_folder(recipe) / "digests.json")
    content: Row = {}
    for stage in ORDER[: ORDER.index("train") + 1]:
        content |= of_recipe(stage, recipe, digests)
    del content["vocab.size"]
    for key in ("valid_target", "valid_english"):  # where none is named it is a part of the text stage
        if named := getattr(recipe.text, key):
            content[f"text.{key}"] = digests.sha256(recipe.path(named))
    for key in ("window_bytes", "max_bytes"):
        content[f"evaluate.{key}"] = getattr(recipe.evaluate, key)
    if save:
        _folder(recipe).mkdir(parents=True, exist_ok=True)
        digests.save()
    return content


def _has_text(recipe: Recipe) -> bool:
    """Whether the run has its text, made from what the recipe names now."""
    made = recipe.run / "text"
    now = of_recipe("text", recipe, Digests(recipe.run / "digests.json"))
    return (made / MANIFEST).is_file() and bool(read_manifest(made)["about"]["inputs"] == now)


def _default_bytes(recipe: Recipe) -> int:
    tokens_per_byte, text_bytes = measured(recipe, resolve_base(recipe.base.model))
    train, data = recipe.train, recipe.data
    tokens = train.steps * train.sequences * data.sequence_length * (1 - data.english_share)
    return min(TRIAL_BYTES, text_bytes, round(tokens / tokens_per_byte))
