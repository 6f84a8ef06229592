"""Training curves where people look: what `train.log` names is fed with the lines of metrics.jsonl.

    line of metrics.jsonl --curves--> {"train/loss": 2.1, "valid/target_bpb": 1.7} --> TensorBoard, W&B, Trackio

`train/tensorboard/` is TensorBoard's log folder. W&B and Trackio get the run's name, in the project "prealign" unless
WANDB_PROJECT or WANDB_NAME say otherwise. The id that they know a run by is kept in the `train` folder, so that a start
after an interruption goes on with its curve, and `--redo train` begins another. The figures are in metrics.jsonl
whatever becomes of a tracker: one that fails is left out from there on.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import say
from prealign_cpt.run.manifest import atomic_write

PROJECT = "prealign"

Curves = dict[str, float]
Sink = tuple[Callable[[Curves, int], Any], Callable[[], Any]]
"""Takes the values of a step, and ends."""


def check_installed(names: Sequence[str]) -> None:
    """Raises:
    RecipeError: the package of a tracker is missing; its name is its extra's.
    """
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(f'train.log: {name} is not installed: pip install "prealign-cpt[{name}]"')


class Trackers:
    """The trackers of a run, on the rank that has any.

    Args:
        folder: the run's `train` folder.
        step: the first that is still to come; what TensorBoard has of it and later ones, a killed run left.
        about: what the run is made from.
    """

    def __init__(self, names: Sequence[str], folder: Path, step: int, about: dict[str, Any]) -> None:
        self._sinks: dict[str, Sink] = {}
        for name in names:
            if sink := self._try(name, _SINKS[name], folder, step, about):
                self._sinks[name] = sink

    def write(self, figures: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        for name, (take, _) in list(self._sinks.items()):
            self._try(name, take, curves(figures), figures["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for name, (_, end) in list(self._sinks.items()):
            self._try(name, end)

    def _try(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:  # whatever it is, it is not the training's
            self._sinks.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            say(f"train.log: {name} failed and is left out ({reason}); metrics.jsonl has all figures")


def curves(figures: dict[str, Any]) -> Curves:
    """The numbers of a line by their names in the trackers; the step is their axis."""
    values = {f"train/{key}": value for key, value in figures.items() if key not in ("step", "valid")}
    return values | {f"valid/{key}": value for key, value in figures.get("valid", {}).items()}


def _tensorboard(folder: Path, step: int, about: dict[str, Any]) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def take(values: Curves, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return take, writer.close


def _wandb(folder: Path, step: int, about: dict[str, Any]) -> Sink:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", folder.parent.name),
        id=_id(folder),
        resume="allow",
        dir=str(folder),
        config=about,
        settings=wandb.Settings(console="off"),  # the output is another's, and a progress bar is no log
    )
    # W&B's own step takes no value twice, and the steps after the last checkpoint are made again.
    run.define_metric("*", step_metric="step")
    return lambda values, step: run.log(values | {"step": step}), run.finish


def _trackio(folder: Path, step: int, about: dict[str, Any]) -> Sink:
    import trackio

    name = f"{folder.parent.name}-{_id(folder)}"
    run = trackio.init(project=PROJECT, name=name, resume="allow", config=about, embed=False)
    return lambda values, step: run.log(values, step=step), trackio.finish


_SINKS: dict[str, Callable[[Path, int, dict[str, Any]], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def _id(folder: Path) -> str:
    path = folder / "tracker_id"
    if not path.is_file():
        atomic_write(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8")
