"""Serve a run or a Hugging Face folder with vLLM until Ctrl-C or SIGTERM: `prealign serve` without an installation.

python serve/serve.py runs/NAME --port 8000 --max-model-len 512
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prealign_cpt.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
