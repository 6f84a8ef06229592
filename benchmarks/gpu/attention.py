"""Varlen attention against the mask, through a whole model: losses and gradients of packed rows, both against fp32.

    python benchmarks/gpu/attention.py            needs a GPU

One JSON object: how far losses (nats, mean and largest) and gradients (norm of the difference over the norm) of the
flash kernel and of the masked form lie from the masked form in fp32. Both are rounding in bf16 if the two are alike.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prealign_cpt.data.mixture import positions
from prealign_cpt.model.loss import DOCUMENTS, LanguageModelLoss, document_borders

START = 0


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.05,
    )  # fmt: skip
    rows = torch.randint(1, 8192, (4, 2048))
    rows[torch.rand(rows.shape) < 1 / 300] = START
    rows[:, 0] = START
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    exact, masked, flash = (
        passed(model, rows, form, dtype)
        for form, dtype in (("sdpa", torch.float32), ("sdpa", torch.bfloat16), (DOCUMENTS, torch.bfloat16))
    )
    found: dict[str, Any] = {"documents": int((rows == START).sum())}
    for name, (nats, gradient) in {"mask": masked, "varlen": flash}.items():
        apart = (nats - exact[0]).abs()
        found[name] = {
            "nats_mean": float(apart.mean()), "nats_largest": float(apart.max()),
            "gradient": float((gradient - exact[1]).norm() / exact[1].norm()),
        }  # fmt: skip
    found["equal"] = all(found["varlen"][key] <= 1.5 * found["mask"][key] for key in found["mask"])
    print(json.dumps(found))


def passed(model: Any, rows: torch.Tensor, form: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each token, and the gradient of all weights."""
    model.set_attn_implementation(form)
    model.zero_grad()
    module, place = LanguageModelLoss(model), positions(rows, START)
    borders = document_borders(place).cuda()
    x, place = rows.cuda(), place.cuda()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        with torch.no_grad():
            nats = module(x, x, place, borders=borders, each=True).double()
        (module(x, x, place, borders=borders) / x.numel()).backward()
    return nats, torch.cat([p.grad.double().flatten() for p in model.parameters()])


if __name__ == "__main__":
    main()
