"""Four nodes on one machine: four torchrun agents with one rank each, of which one is killed in the middle.

    agent 0 (holds the rendezvous) ─┐
    agents 1, 2, 3 ─────────────────┴─► ranks ─► SIGKILL to agent 2 and its rank ─► ranks anew, from the checkpoint

The commands are those of docs/training.md, "Many nodes"; what is left out there is given by `NODE`.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.cli import main
from prealign_cpt.run.manifest import read_manifest
from tests.conftest import free_port
from tests.faults.ranks import start, values
from tests.faults.runs import REPOSITORY, curve, ranks_of, state, steps

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

STEPS = 60
FLAGS = ["--train.steps", f"{STEPS}", "--train.eval_every", f"{STEPS}", "--train.save_every", "5"]
RESTART = ["--max-restarts", "3"]
CONF = "last_call_timeout=4,keep_alive_interval=1,is_host={}"
"""torchrun takes a node for lost that has said nothing in three intervals (of 5 seconds if nothing is said), and waits
so long for others where there are fewer than the most (30). On one machine every agent could hold the rendezvous, and
whoever came first did: without `is_host` the one that is lost may be it, and all end."""
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Without it an agent that joins later waits a minute for an address that nobody writes anew, and all agents end
(seen with torch 2.13; its ranks would also count restarts otherwise than the others, pytorch issue 135712)."""


class Nodes:
    """torchrun agents that meet at a port of this machine, each in a process group of its own."""

    def __init__(self, recipe: Path, nodes: str, *flags: str) -> None:
        self.run = recipe.parent / "runs" / "tiny"
        self.output = recipe.parent / "output"
        self.agents: list[subprocess.Popen[bytes]] = []
        self.command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "rehearsal", *RESTART,
            "-m", "prealign_cpt", "train", str(recipe), *FLAGS, *flags,
        ]  # fmt: skip

    def add(self) -> None:
        """One more node; the first one holds the rendezvous."""
        conf = ["--rdzv-conf", CONF.format(str(not self.agents).lower())]
        with self.output.open("a") as output:
            self.agents.append(
                subprocess.Popen(
                    [*self.command[:3], *conf, *self.command[3:]],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), OWN_STORE: "1"},
                )
            )

    def lose(self, number: int) -> None:
        """A node falls away, with its rank, which torchrun started in a session of its own."""
        agent = self.agents.pop(number)
        for pid in (*ranks_of(agent.pid), agent.pid):
            os.kill(pid, signal.SIGKILL)
        agent.wait()

    def remove(self) -> None:
        """What is left of them."""
        while self.agents:
            if self.agents[-1].poll() is None:
                self.lose(-1)
            else:
                self.agents.pop()

    def until(self, true: Callable[[], bool], seconds: float = 150) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end and all(agent.poll() is None for agent in self.agents), self.said()
            time.sleep(0.02)

    def said(self) -> str:
        return self.output.read_text()

    def ends(self) -> list[int]:
        try:
            return [agent.wait(timeout=150) for agent in self.agents]
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said()) from None


@pytest.fixture
def launched(recipe_file: Path) -> Iterator[list[Nodes]]:
    """Nodes that a test starts; what is left of them at its end is removed. The stages before training are made."""
    for part in ("prepare", "align"):
        assert main([part, str(recipe_file), *FLAGS]) == 0
    shutil.copytree(recipe_file.parent / "runs", recipe_file.parent / "straight")
    started: list[Nodes] = []
    yield started
    for nodes in started:
        nodes.remove()


def _straight(rank: int, size: int, recipe: Path, flags: tuple[str, ...]) -> Path:
    """A run of the same stages that nobody disturbs; its folder."""
    out = recipe.parent / "straight"
    assert main(["train", str(recipe), "--out", str(out), *FLAGS, *flags]) == 0
    return out / "tiny"


def _weights(run: Path) -> dict[str, Any]:
    """SHA-256 of the shards of the last checkpoint, weights and moments."""
    files = read_manifest(run / "train" / f"step-{STEPS:010d}")["files"]
    return {name: about for name, about in files.items() if name.endswith(".distcp")}


def _started(recipe: Path, launched: list[Nodes], nodes: str, *flags: str) -> Nodes:
    launched.append(Nodes(recipe, nodes, *flags))
    for _ in range(int(nodes[-1])):
        launched[-1].add()
    return launched[-1]


def test_a_node_that_is_lost_and_replaced_changes_nothing(recipe_file: Path, launched: list[Nodes]) -> None:
    flags = ("--train.replicas", "2")
    straight = values(start(4, _straight, recipe_file, flags, seconds=120, grace=60))[0]
    nodes = _started(recipe_file, launched, "4", *flags)
    nodes.until(lambda: max(steps(nodes.run), default=0) >= 12)
    nodes.lose(2)
    nodes.add()
    assert nodes.ends() == [0, 0, 0, 0], nodes.said()
    assert "train: continues after step" in nodes.said()
    assert state(nodes.run)["status"] == "finished"
    assert curve(nodes.run) == curve(straight) and len(curve(straight)) == STEPS
    assert len(_weights(straight)) == 4 and _weights(nodes.run) == _weights(straight)


def test_without_a_lost_node_the_others_go_on_until_another_comes(recipe_file: Path, launched: list[Nodes]) -> None:
    straight = _straight(0, 1, recipe_file, ())
    nodes = _started(recipe_file, launched, "2:4")
    nodes.until(lambda: max(steps(nodes.run), default=0) >= 7)
    nodes.lose(2)
    nodes.until(lambda: "steps on 3 rank(s)" in nodes.said())
    before = len(steps(nodes.run))
    nodes.until(lambda: len(steps(nodes.run)) >= before + 5)
    nodes.add()
    assert nodes.ends() == [0, 0, 0, 0], nodes.said()
    assert nodes.said().count("steps on 4 rank(s)") == 2 and nodes.said().count("train: continues after step") == 2
    found, expected = curve(nodes.run), curve(straight)
    assert [one[0] for one in found] == list(range(1, STEPS + 1))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
