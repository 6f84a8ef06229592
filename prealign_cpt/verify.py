"""What is in a run folder, and whether it is sound: `prealign verify RUN`.

    RUN/{stages, train/step-...}/MANIFEST.json  -->  a line for each folder, and whether one is damaged

Damaged is: a file that is not as it was written, or missing; a stage without a manifest; a checkpoint whose description
asks torch to run something; an export that is of none of the checkpoints that are there.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.folder import ASIDE, KEPT, ORDER
from prealign_cpt.run.manifest import NAME, extra_files, folder_digest, verify


@dataclass(frozen=True)
class Finding:
    """One folder of a run: what there is to say about it."""

    folder: Path
    text: str
    damaged: bool = False

    def __str__(self) -> str:
        return f"{self.folder}: {'DAMAGED: ' if self.damaged else ''}{self.text}"


def inspect(run: Path) -> list[Finding]:
    """Look at every folder below `run` that this program wrote; reads every byte of it.

    Raises:
        RecipeError: there is none.
    """
    stages = {run / name for name in ORDER if name != "train" and (run / name).is_dir()}
    saved = {path for path in (run / "train").glob(f"step-{'[0-9]' * 10}") if path.is_dir()}
    written = {path.parent for path in run.rglob(NAME) if not path.relative_to(run).parts[0].startswith(ASIDE)}
    folders = sorted(written | stages | saved)
    if not folders:
        raise RecipeError(f"{run}: holds no finished stage; name a run folder")
    steps = sorted(saved)
    findings = [Finding(run, state)] if (state := _state(run)) else []
    return findings + [_inspect(folder, steps) for folder in folders]


def _state(run: Path) -> str:
    """What `run_state.json` says."""
    try:
        content = json.loads((run / "run_state.json").read_text(encoding="utf-8"))
        code = f", exit code {content['exit_code']}" if "exit_code" in content else ""
        reason = f": {content['reason']}" if "reason" in content else ""
        return f"state {content['status']}{code}{reason}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _inspect(folder: Path, steps: list[Path]) -> Finding:
    if folder.name.startswith(".tmp-"):
        return Finding(folder, "left by a killed process; the next start removes it")
    if folder.name.startswith("damaged-"):
        return Finding(folder, "set aside as damaged by an earlier start; not used")
    try:
        manifest = verify(folder)
        notes = [f"sound, {len(manifest['files'])} files"]
        extra = extra_files(folder, manifest)
        if extra:
            notes.append(f"beside them, not read: {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}")
        if folder in steps:
            notes.append(_checkpoint(folder, manifest["about"], newest=folder == steps[-1]))
        if folder.parent.name == KEPT:
            notes.append(f"milestone, {_checkpoint(folder, manifest['about'], newest=False)}")
        if folder.name == "export" and steps:
            notes.append(_export(manifest["about"], steps))
    except (DataError, OSError) as error:
        return Finding(folder, str(error), damaged=True)
    return Finding(folder, "; ".join(notes))


def _checkpoint(folder: Path, about: dict[str, Any], newest: bool) -> str:
    from prealign_cpt.train.stored import read_metadata  # imports torch

    tensors = len(read_metadata(folder).state_dict_metadata)
    pointer = folder.parent / "LATEST"
    pointed = pointer.is_file() and pointer.read_bytes().decode(errors="replace").strip() == folder.name
    marks = ", newest" * newest + ", LATEST" * pointed
    return f"step {about['step']} of {about['world']} rank(s), {tensors} entries{marks}"


def _export(about: dict[str, Any], steps: list[Path]) -> str:
    made_from = about.get("inputs", {}).get("train")
    for step in reversed(steps):
        if (step / NAME).is_file() and folder_digest(step) == made_from:
            return f"made from {step.name}" + (f", not from {steps[-1].name}" if step != steps[-1] else "")
    raise DataError(
        f"made from none of the checkpoints that are here ({steps[-1].name}); start again with --redo export"
    )
