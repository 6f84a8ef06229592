"""Device, versions, and the speed of a bf16 matrix product: one JSON object."""

import json
import platform
import subprocess
import time
from importlib import metadata
from typing import Any

import torch


def main() -> None:
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("transformers", "accelerate", "bitsandbytes", "triton", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["commit"] = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        for _ in range(3):
            a @ a
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        rate = 10 * 2 * 8192**3 / (time.perf_counter() - began) / 1e12
        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found |= {"free_gb": round(free / 1e9, 1), "total_gb": round(total / 1e9, 1)}
        found["matrix_product_tflops"] = round(rate, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
