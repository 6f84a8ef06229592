"""`prealign compare`: every arm and seed of a recipe as an ordinary run, one after the other, and what came of them.

    arms.toml + recipe --> out/NAME-ARM-sSEED (ordinary run folders) --> points.jsonl --> table.md, table.json
                            align stage --> budget: how many steps --> training, export, eval

Runs share finished stages that have equal inputs (`--borrow`). A finished run is skipped, an interrupted one goes on
where it stopped, one that fails is marked and the others go on.
"""

import shutil
from pathlib import Path

from prealign_cpt.inputs import check_inputs
from prealign_cpt.lab.compare.arms import Grid, Job, jobs, read_grid
from prealign_cpt.lab.compare.budget import plan
from prealign_cpt.lab.compare.results import FINISHED, status, write_points
from prealign_cpt.lab.compare.table import write_table
from prealign_cpt.recipe.file import as_toml, load_recipe
from prealign_cpt.run import signals, torchrun
from prealign_cpt.run.errors import PrealignError, RecipeError
from prealign_cpt.run.folder import say, write_state
from prealign_cpt.run.manifest import NAME as MANIFEST


def compare(
    recipes: list[Path],
    arms: Path,
    flags: list[str],
    num_processes: int = 1,
    out: Path | None = None,
    only: list[str] | None = None,
    seeds: list[int] | None = None,
    target_bytes: int | None = None,
    table_only: bool = False,
) -> int:
    """Run a grid and print its table; 0, or 1 if one of the arms asked for is not finished.

    Args:
        recipes: one for each language or base model.
        arms: the arms file (arms.py).
        flags: recipe keys for all arms.
        num_processes: ranks of the training; more than one start torchrun.
        out: file for the points; by default RUNS/compare-NAME/points.jsonl.
        only: names of the arms to run; the table shows the others as they are.
        seeds: those to run, in the same way.
        target_bytes: in place of the arms file's.
        table_only: run nothing.

    Raises:
        RecipeError, MissingInputError, DataError: an input is wrong; nothing has been started then.
        StoppedError: a signal asked to stop; the run that was going on has kept what it had.
    """
    grid = read_grid(arms, target_bytes)
    names = [arm.name for arm in grid.arms]
    for name in only or []:
        if name not in names:
            raise RecipeError(f"--only: {name!r} is no arm of {arms}; they are {', '.join(names)}")
    for seed in seeds or []:
        if seed not in grid.seeds:
            raise RecipeError(f"--seeds: {seed} is no seed of {arms}; they are {', '.join(map(str, grid.seeds))}")
    every = {path: jobs(grid, path, flags) for path in recipes}
    bases = [found[0].base_name for found in every.values()]
    if len(set(bases)) != len(recipes):
        raise RecipeError(
            f"{', '.join(map(str, recipes))}: two recipes of one name; their runs would lie in one folder"
        )
    folder = every[recipes[0]][0].run.parent / f"compare-{'-'.join(bases)}"
    points = out or folder / "points.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    all_jobs = [job for found in every.values() for job in found]
    wanted = [job for job in all_jobs if (not only or job.arm.name in only) and (not seeds or job.recipe.seed in seeds)]
    if not table_only:
        torchrun.check_script()
        for found in every.values():
            check_inputs(found[0].recipe)
        for number, job in enumerate(wanted, start=1):
            say(f"compare: {number} of {len(wanted)}: {job.run}")
            _run_job(job, grid, every[job.recipe_path], num_processes)
            state = status(job.run)
            say(f"compare: {job.run.name}: {state}")
            if state == FINISHED and not grid.keep_checkpoints:
                for checkpoint in job.run.glob("cpt/step-*"):
                    shutil.rmtree(checkpoint)
            write_points(points, all_jobs)
            write_table(folder, grid, list(every.values()))
    write_points(points, all_jobs)
    print(write_table(folder, grid, list(every.values())), end="")
    say(f"compare: the table is {folder / 'table.md'}, the points are in {points}")
    return int(any(status(job.run) != FINISHED for job in wanted))


def _run_job(job: Job, grid: Grid, siblings: list[Job], num_processes: int) -> None:
    """Bring a run to its end, or leave in its `run_state.json` why it did not come there."""
    try:
        if not _stage_there(job, "align") and not _start(job, job.flags, "align", num_processes):
            return
        budget = plan(job.recipe, grid.target_bytes, _most_flops(job, grid, siblings))
        flags = [*job.flags, f"--train.steps={budget.steps}"]
        recipe = load_recipe(job.recipe_path, flags)
        written = job.run / "recipe.toml"
        if status(job.run) == FINISHED and written.read_text(encoding="utf-8") == as_toml(recipe):
            say(f"compare: {job.run.name}: done before, kept")
            return
        budget.write(job.run)
        _start(job, flags, "", num_processes)
    except PrealignError as error:
        if isinstance(error, signals.StoppedError):
            raise
        job.run.mkdir(parents=True, exist_ok=True)
        write_state(job.run, "failed", exit_code=error.exit_code, reason=str(error))


def _most_flops(job: Job, grid: Grid, siblings: list[Job]) -> float | None:
    """The FLOPs of the reference with the same seed, under budget "flops"; None under "bytes", and for itself."""
    if grid.budget == "bytes" or job.arm.name == grid.reference:
        return None
    reference = next(j for j in siblings if j.arm.name == grid.reference and j.recipe.seed == job.recipe.seed)
    if not _stage_there(reference, "align"):
        raise RecipeError(f"{reference.run}: has no alignment stage, so its FLOPs are unknown; run this arm first")
    budget = plan(reference.recipe, grid.target_bytes)
    return budget.flops(budget.steps)


def _stage_there(job: Job, name: str) -> bool:
    return (job.run / name / MANIFEST).is_file()


def _start(job: Job, flags: list[str], until: str, num_processes: int) -> bool:
    """Run the job's recipe in processes of its own, up to a stage or ("") to the end; whether it ended well."""
    program = ["-m", "prealign_cpt", until] if until else [str(torchrun.SCRIPT)]
    job.run.parent.mkdir(parents=True, exist_ok=True)
    arguments = [str(job.recipe_path), *flags, "--borrow", str(job.run.parent)]
    return torchrun.start(program, arguments, job.run, num_processes) == 0
