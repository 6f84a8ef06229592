"""What a run's training text shows of the languages and words that are called unseen, by its audit.

RUN/audit/audit.json, RUN/text --exposure--> {"German in the English text": "57 tokens (0.006 %)", ...}

A figure is zero-shot as far as this says so. What the base has read before is not known here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prealign_cpt.evaluate.measures import MEASURES
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import read_manifest

AUDIT = "audit/audit.json"
"""In a run folder, whether its recipe was audited or the run."""

FORMAT = 2

TEXT, PAIRS = "training text", "held-out pairs side by side"
"""Names of what is shown: where there is no audit; and beside word retrieval alone."""


def exposure(run: Path | None) -> dict[str, str]:
    """What stands beside zero-shot figures of a model, by name.

    Args:
        run: its folder; None: of no run.
    """
    audit = audit_of(run) if run else "not known: no run of this program"
    return (
        {TEXT: audit} if isinstance(audit, str) else {str(name): str(text) for name, text in audit["exposure"].items()}
    )


def audit_of(run: Path) -> dict[str, Any] | str:
    """The audit of a run's text, or why there is none."""
    try:
        content = json.loads((run / AUDIT).read_text(encoding="utf-8"))
        inputs = read_manifest(run / "text")["about"]["inputs"] if (run / "text").is_dir() else content["text"]
        same = content["format"] == FORMAT and content["text"] == inputs
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return "not audited: prealign audit"
    return content if same else "the audit is of other text: prealign audit again"


def beside(measure: str, exposures: Mapping[str, Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """The rows that stand below a measure's figures: name, and what is shown to each subject; none if it is not
    zero-shot.

    Args:
        exposures: `exposure` of each subject.
    """
    if measure not in MEASURES or not MEASURES[measure].zero_shot:
        return []
    names = dict.fromkeys(name for one in exposures.values() for name in one if name != PAIRS or measure == "words")
    return [(name, [one.get(name, "-") for one in exposures.values()]) for name in names]
