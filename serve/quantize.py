"""Make an 8-bit copy of an exported folder, to be served with `prealign serve --quantization bnb8 --device cuda`.

python serve/quantize.py runs/NAME/export runs/NAME/export-8bit
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prealign_cpt.cli import guarded
from prealign_cpt.serving.quantize import quantize


def main() -> int:
    parser = argparse.ArgumentParser(description="Make an 8-bit copy of a Hugging Face folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    options = parser.parse_args()
    print(json.dumps(quantize(options.folder, options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
