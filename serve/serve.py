"""Serve a Hugging Face folder with vLLM on this machine, until Ctrl-C or SIGTERM.

python serve/serve.py runs/NAME/export --port 8000 --max-model-len 512
"""

import argparse
import sys
from pathlib import Path

from prealign_cpt.errors import PrealignError
from prealign_cpt.serving.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve a Hugging Face folder with vLLM on this machine.")
    parser.add_argument("folder", type=Path, help="the folder, such as runs/NAME/export")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: 127.0.0.1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cpu: fp32, cuda: bf16 (default: cpu)")
    parser.add_argument("--served-model-name", help="the name to ask for (default: the folder's or the run's)")
    parser.add_argument("--max-model-len", type=int, help="longest sequence (default: the model's limit)")
    parser.add_argument("--log", type=Path, help="vLLM's output (default: a new temporary file)")
    parser.add_argument("--start-limit", type=float, default=300.0, help="seconds to start in (default: 300)")
    arguments = vars(parser.parse_args())
    try:
        return serve(arguments.pop("folder"), **arguments)
    except PrealignError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
