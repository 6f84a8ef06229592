"""What a run's training text shows of the languages and words that are called unseen, by its audit.

RUN/audit/audit.json, RUN/text --exposure--> {"German in the English text": "57 tokens (0.006 %)", ...}

A figure is zero-shot as far as this says so. What the base has read before is not known here.
"""

import json
from pathlib import Path
from typing import Any

from prealign_cpt.run.manifest import read_manifest

AUDIT = "audit/audit.json"
"""In a run folder, whether its recipe was audited or the run."""

FORMAT = 1

EXPOSURE = "training text"
"""Name of what is shown where there is no audit."""


def exposure(run: Path | None) -> dict[str, str]:
    """What stands beside zero-shot figures of a model, by name.

    Args:
        run: its folder; None: of no run.
    """
    if run is None:
        return {EXPOSURE: "not known: no run of this program"}
    audit = read_audit(run)
    if audit is None:
        return {EXPOSURE: "not audited: prealign audit"}
    if audit["text"] != _text(run):
        return {EXPOSURE: "the audit is of other text: prealign audit again"}
    return {str(name): str(text) for name, text in audit["exposure"].items()}


def read_audit(run: Path) -> dict[str, Any] | None:
    """The audit of a run; None if there is none, or of another version."""
    try:
        content: dict[str, Any] = json.loads((run / AUDIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _text(run: Path) -> Any:
    """What the run's text was made from; None if it has none."""
    return read_manifest(run / "text")["about"]["inputs"] if (run / "text").is_dir() else None


def identifier(audit: dict[str, Any]) -> list[str]:
    """How far the languages of an audit can be trusted, a line for each side."""
    lines = []
    for side, found in audit["judged"].items():
        if not found["asked"]:
            told = "py3langid cannot tell it: lines in another script alone are called foreign"
        elif not found["lines"]:
            told = "py3langid, not checked: no held-out text"
        else:
            taken = "".join(f", {label} {count:,}" for label, count in list(found["taken_for"].items())[:3])
            told = f"py3langid is wrong on {found['wrong']:,} of {found['lines']:,} held-out lines{taken}, and unsure on "
            told += f"{found['unsure']:,}; lines in another script than {', '.join(found['scripts'])} are certain"
        lines.append(f"{side} ({found['code']}): {told}")
    return lines
