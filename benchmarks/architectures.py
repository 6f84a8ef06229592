"""Which of all causal language models that transformers knows would be accepted as a base?

    python benchmarks/architectures.py > architectures.tsv        (five minutes on one core)

A tiny random model of each (4 layers, hidden size 64) goes through `check_structure`, `check_head` and
`check_isolation`. One line each: model type, class, outcome, message. "not made" are those whose configuration does not
take the common names of sizes, or that stay large; they are checked by nothing here.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from prealign_cpt.model.load import check_head, check_isolation, check_structure
from prealign_cpt.run.errors import RecipeError

LARGEST = 30_000_000
"""Parameters; what is larger has sizes under other names, and is not built."""

SMALL: dict[str, Any] = {
    **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.3},
    **{"d_model": 64, "n_layers": 4, "n_heads": 4, "n_embd": 64, "n_layer": 4, "n_head": 4, "ffn_dim": 96},
    **{"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4},
    **{"moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16},
    **{"qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 1},
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_num_heads": 8},
    **{"mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1, "lru_width": 64, "attention_window_size": 16},
}
LAYER_TYPES = {
    "lfm2": ["conv", "full_attention"] * 2,
    "gemma3n_text": ["sliding_attention", "full_attention"] * 2,
    "minimax": ["linear_attention", "full_attention"] * 2,
    "qwen3_next": ["linear_attention", "full_attention"] * 2,
    "qwen3_5_text": ["linear_attention", "full_attention"] * 2,
}


def main() -> None:
    transformers.logging.set_verbosity_error()
    print(f"# {time.strftime('%Y-%m-%d')}, transformers {transformers.__version__}, torch {torch.__version__}")
    for model_type in sys.argv[1:] or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        print("\t".join((model_type, *outcome(model_type))), flush=True)


def outcome(model_type: str) -> tuple[str, str, str]:
    """Class, outcome and message."""
    options = SMALL | ({"layer_types": LAYER_TYPES[model_type]} if model_type in LAYER_TYPES else {})
    name = str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
    try:
        config = CONFIG_MAPPING[model_type](**options)
        with torch.device("meta"):
            bare = AutoModelForCausalLM.from_config(config)
        size = sum(parameter.numel() for parameter in bare.parameters())
        if size > LARGEST:
            return name, "not made", f"{size / 1e6:,.0f} million parameters"
    except Exception as error:  # whatever a configuration of wrong sizes leads to
        return name, "not made", _line(error)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            check_structure(Path(folder))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
        check_head(model)
        check_isolation(model)
    except RecipeError as error:
        return name, "refused", _line(error)
    except Exception as error:
        return name, "TRACEBACK", _line(error)
    return name, "accepted", ""


def _line(error: Exception) -> str:
    text = f"{'' if isinstance(error, RecipeError) else type(error).__name__ + ': '}{error}"
    return " ".join(text.removeprefix("base.model: ").partition("; choose")[0].split())[:200]


if __name__ == "__main__":
    main()
