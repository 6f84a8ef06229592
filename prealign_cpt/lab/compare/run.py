"""`prealign compare`: every variant and seed of a recipe as an ordinary run, and what came of them.

    variants.toml + recipe --> out/NAME-VARIANT-sSEED (ordinary run folders) --> points.jsonl, table.md, table.json
                            align stage --> budget: how many steps --> training, export, eval

Runs share finished stages that have equal inputs (`--reuse`). A finished run is skipped, an interrupted one goes on
where it stopped, one that fails is marked and the others go on. With two budgets there is a second run for each,
NAME-VARIANT-sSEED-BUDGET; it is a link to the first where both lead to the same number of steps.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from prealign_cpt.lab.compare.budget import Plan, plan
from prealign_cpt.lab.compare.results import FINISHED, status, write_points, write_table
from prealign_cpt.lab.compare.variants import Grid, RunSpec, read_grid, run_specs
from prealign_cpt.prepare import check_inputs
from prealign_cpt.recipe.file import anywhere, as_toml, load_recipe
from prealign_cpt.run import launch, signals
from prealign_cpt.run.errors import BusyError, PrealignError, RecipeError
from prealign_cpt.run.folder import say, write_state
from prealign_cpt.run.manifest import NAME as MANIFEST


def compare(
    recipes: list[Path],
    variants: Path,
    flags: list[str],
    num_processes: int = 1,
    out: Path | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    target_bytes: int | None = None,
    table_only: bool = False,
) -> int:
    """Run a grid and print its table; 0, or 1 if one of the variants asked for is not finished.

    Args:
        recipes: one for each language or base model.
        variants: the variants file (variants.py).
        flags: recipe keys for all variants.
        num_processes: ranks of the training; more than one start torchrun.
        out: file for the points; by default RUNS/compare-NAME/points.jsonl.
        only: names of the variants to run; the table shows the others as they are.
        seeds: those to run, in the same way.
        target_bytes: in place of the variants file's.
        table_only: run nothing.

    Raises:
        RecipeError, MissingInputError, DataError: an input is wrong; nothing has been started then.
        StoppedError: a signal asked to stop; the run that was going on has kept what it had.
    """
    grid = read_grid(variants, target_bytes)
    for name in only:
        if name not in grid.variants:
            raise RecipeError(f"--only: {name!r} is no variant of {variants}; they are {', '.join(grid.variants)}")
    for seed in seeds:
        if seed not in grid.seeds:
            raise RecipeError(f"--seeds: {seed} is no seed of {variants}; they are {', '.join(map(str, grid.seeds))}")
    by_recipe = [run_specs(grid, path, flags) for path in recipes]
    recipe_names = [specs[0].recipe_name for specs in by_recipe]
    if len(set(recipe_names)) != len(recipes):
        raise RecipeError(
            f"{', '.join(map(str, recipes))}: two recipes of one name; their runs would lie in one folder"
        )
    folder = by_recipe[0][0].run.parent / f"compare-{'-'.join(recipe_names)}"
    folder.mkdir(parents=True, exist_ok=True)
    points = out or folder / "points.jsonl"
    all_specs = [spec for specs in by_recipe for spec in specs]

    def write() -> str:
        write_points(points, all_specs)
        return write_table(folder, grid, by_recipe)

    wanted = [
        spec for spec in all_specs if (not only or spec.variant in only) and (not seeds or spec.recipe.seed in seeds)
    ]
    if not table_only:
        for specs in by_recipe:
            check_inputs(specs[0].recipe)
        for number, spec in enumerate(wanted, start=1):
            say(f"compare: {number} of {len(wanted)}: {spec.run}")
            _run(spec, grid, all_specs, num_processes)
            state = status(spec.run)
            say(f"compare: {spec.run.name}: {state}")
            if state == FINISHED and not grid.keep_checkpoints:
                for checkpoint in spec.run.glob("train/step-*"):
                    shutil.rmtree(checkpoint)
            write()
    print(write(), end="")
    say(f"compare: the table is {folder / 'table.md'}, the points are in {points}")
    return int(any(status(spec.run) != FINISHED for spec in wanted))


def _run(spec: RunSpec, grid: Grid, all_specs: list[RunSpec], num_processes: int) -> None:
    """Bring a run to its end, or leave in its `run_state.json` why it did not come there."""
    same = (spec.recipe_name, spec.variant, spec.recipe.seed)
    first = next(s for s in all_specs if (s.recipe_name, s.variant, s.recipe.seed) == same)
    if spec.run.is_symlink():
        spec.run.unlink()
    if first is not spec and status(first.run) != FINISHED:
        say(f"compare: {spec.run.name}: waits for {first.run.name}, which is not finished")
        return
    try:
        if not _has_alignment(first):
            _start(first, first.flags, "align", num_processes)
        budget = plan(first.recipe, grid.target_bytes, _most_flops(spec, grid, all_specs))
        if first is not spec and budget.steps == Plan.read(first.run).steps and not spec.run.exists():
            spec.run.symlink_to(first.run.name)
            say(f"compare: {spec.run.name}: {budget.steps} steps, as many as {first.run.name}, which stands for both")
            return
        flags = [*spec.flags, f"--train.steps={budget.steps}"]
        written, wanted = spec.run / "recipe.toml", as_toml(anywhere(load_recipe(spec.recipe_path, flags)))
        budget.write(spec.run)
        if status(spec.run) == FINISHED and written.read_text(encoding="utf-8") == wanted:
            say(f"compare: {spec.run.name}: done before, kept")
            return
        _start(spec, flags, "run", num_processes)
    except signals.StoppedError:
        raise
    except PrealignError as error:
        if error.exit_code == BusyError.exit_code:  # its state is that of the process that works there
            return
        spec.run.mkdir(parents=True, exist_ok=True)
        write_state(spec.run, "failed", exit_code=error.exit_code, reason=str(error))


def _most_flops(spec: RunSpec, grid: Grid, all_specs: list[RunSpec]) -> float | None:
    """The FLOPs of the reference with the same seed, under budget "flops"; None under "bytes", and for itself."""
    if spec.budget == "bytes" or spec.variant == grid.reference:
        return None
    wanted = (spec.recipe_name, grid.reference, spec.recipe.seed)
    reference = next(s for s in all_specs if (s.recipe_name, s.variant, s.recipe.seed) == wanted)
    if not _has_alignment(reference):
        raise RecipeError(f"{reference.run}: has no alignment stage, so its FLOPs are unknown; run this variant first")
    budget = plan(reference.recipe, grid.target_bytes)
    return budget.flops(budget.steps)


def _has_alignment(spec: RunSpec) -> bool:
    return (spec.run / "align" / MANIFEST).is_file()


def _start(spec: RunSpec, flags: list[str], command: str, num_processes: int) -> None:
    """Run the recipe in processes of its own, up to the alignment ("align") or to the end ("run")."""
    spec.run.parent.mkdir(parents=True, exist_ok=True)
    arguments = [command, str(spec.recipe_path), *flags, "--reuse", str(spec.run.parent)]
    if command == "run":
        launch.start([*arguments, "--nproc", str(num_processes)])
    else:
        launch.start(arguments, num_processes)
