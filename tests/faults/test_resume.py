"""Resuming: bit by bit at the same number of ranks, the same batches at any other (rows 37, 38, 39, 42, 43)."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.ranks import start, values
from tests.faults.runs import INPUTS, RECIPE, alone, curve, make_base, order

STOPS = (1, 3, 4)
"""Twice within the first epoch, and exactly at its end."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_base(folder)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every run by its name: what each rank brought back. Five starts of ranks."""
    found: dict[str, list[dict[str, Any]]] = {}

    def keep(size: int, jobs: list[dict[str, Any]]) -> None:
        of_ranks = values(start(size, alone, folder, jobs, seconds=120))
        for place, job in enumerate(jobs):
            found.setdefault(job["name"], []).extend(rank[place] for rank in of_ranks)

    jobs = []
    for base in ("tied", "untied"):
        jobs += [{"name": f"{base} straight", "base": base}]
        jobs += [{"name": f"{base} resumed", "base": base, "stop": stop} for stop in (*STOPS, 0)]
    keep(2, [*jobs, {"name": "2 to 3", "stop": 4}])
    shutil.copytree(folder / "2 to 3", folder / "2 to 1")
    keep(1, [{"name": "2 to 1"}, {"name": "1 straight"}, {"name": "1 to 2", "stop": 4}])
    keep(3, [{"name": "2 to 3"}])
    keep(
        4,
        [
            {"name": "replicas", "replicas": 2, "stop": 4},
            {"name": "replicas", "replicas": 2},
            {"name": "replicas straight", "replicas": 2},
        ],
    )
    longer: dict[str, Any] = {"steps": 12, "warmup": 0.0, "decay": 0.2}
    keep(
        2,
        [
            {"name": "1 to 2"},
            {"name": "lengthened", "stop": 4, "inputs": _inputs(9, 0.0, 0.2), "warmup": 0.0, "decay": 0.2},
            {"name": "lengthened", "inputs": _inputs(12, 0.0, 0.2), "accept": ("train.steps",), **longer},
            {"name": "long", "inputs": _inputs(12, 0.0, 0.2), **longer},
        ],
    )
    return found


def _inputs(steps: int, warmup: float, decay: float) -> dict[str, Any]:
    return INPUTS | {"train.steps": steps, "train.warmup": warmup, "train.decay": decay}


@pytest.mark.slow
@pytest.mark.parametrize("base", ["tied", "untied"])
def test_at_the_same_number_of_ranks_everything_is_bit_identical(
    folder: Path, runs: dict[str, list[dict[str, Any]]], base: str
) -> None:
    straight, resumed = runs[f"{base} straight"], runs[f"{base} resumed"]
    stops = [one["error"] for one in resumed[1:6:2]]  # of the rank that got the signal
    assert all(f"after step {stop}, saved at step {stop}" in error for stop, error in zip(STOPS, stops, strict=True))
    assert all("StoppedError" in error for error in stops)
    assert curve(folder / f"{base} resumed") == curve(folder / f"{base} straight")
    assert len(curve(folder / f"{base} resumed")) == RECIPE.steps
    for rank in (0, 1):
        assert straight[rank]["weights"].keys() == resumed[-2 + rank]["weights"].keys()
        for name, value in straight[rank]["weights"].items():
            assert np.array_equal(resumed[-2 + rank]["weights"][name], value), name


@pytest.mark.slow
def test_four_ranks_in_two_replicas_go_on_bit_by_bit(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> None:
    assert "after step 4, saved at step 4" in runs["replicas"][3]["error"] and not runs["replicas"][4]["error"]
    assert curve(folder / "replicas") == curve(folder / "replicas straight") and len(curve(folder / "replicas")) == 9
    for name, value in runs["replicas straight"][0]["weights"].items():
        assert np.array_equal(runs["replicas"][4]["weights"][name], value), name


@pytest.mark.slow
def test_no_sequence_is_left_out_or_read_twice(runs: dict[str, list[dict[str, Any]]]) -> None:
    everything = order(runs["tied straight"])
    assert [number for number, _ in everything] == list(range(RECIPE.steps * RECIPE.sequences))
    assert len({content for _, content in everything[:16]}) == 16, "an epoch holds each row once"
    assert order(runs["tied resumed"]) == everything
    assert sum(len(one["read"]) for one in runs["tied resumed"]) == len(everything), "and nothing twice"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2 to 1", "1 to 2", "2 to 3", "1 straight"])
def test_at_another_number_of_ranks_the_batches_are_the_same(
    folder: Path, runs: dict[str, list[dict[str, Any]]], name: str
) -> None:
    assert not runs[name][-1]["error"]
    one, other = np.array(curve(folder / name)), np.array(curve(folder / "tied straight"))
    assert one.shape == other.shape
    print(f"{name}: largest relative difference of a loss {np.max(np.abs(one[:, 1] / other[:, 1] - 1)):.2g}")
    np.testing.assert_allclose(one, other, rtol=1e-5)
    whole, part = order(runs["tied straight"]), order(runs[name])
    assert part == whole[-len(part) :] and len(part) >= 5 * RECIPE.sequences
    for key, value in runs["tied straight"][0]["weights"].items():
        np.testing.assert_allclose(runs[name][-1]["weights"][key], value, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_a_run_is_made_longer_as_if_it_had_been_so_from_the_start(
    folder: Path, runs: dict[str, list[dict[str, Any]]]
) -> None:
    assert not runs["lengthened"][-1]["error"]
    assert curve(folder / "lengthened") == curve(folder / "long")
