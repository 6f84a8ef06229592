"""A checkpoint becomes an ordinary Hugging Face folder, proven equal to the trained model.

train/step-… + align/ (config, tokenizer) --folder.py--> export/ --gate.py--> parity.json --card.py--> README.md
"""

from prealign_cpt.export.folder import build_export
from prealign_cpt.export.gate import Probe

__all__ = ["Probe", "build_export"]
