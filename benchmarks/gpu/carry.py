"""What gpu.sh needs on a machine without a network, in one folder: `python benchmarks/gpu/carry.py [--base FOLDER]`.

    carried/packages     what pip brings for Python 3.12 on Linux; of bitsandbytes only the kernels for CUDA 13
    carried/base         tokenizer and configuration of a base, without weights (default: smollm2-135m)
    carried/text         German and English text and the lexicon, packed

Under 60 MB. The texts are those that `prealign fetch` has brought.
"""

import argparse
import gzip
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prealign_cpt.model.base import EMBEDDED, resolve_base
from prealign_cpt.run.cache import cache_folder

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["langcodes", "language_data", "marisa-trie", "py3langid", "gguf", "bitsandbytes"]
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
TEXTS = ["target.train", "target.valid", "target.test", "english.train", "english.valid", "english.test"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=EMBEDDED)
    parser.add_argument("--out", type=Path, default=ROOT / "carried")
    options = parser.parse_args()
    packages = options.out / "packages"
    shutil.rmtree(options.out, ignore_errors=True)
    target = ["--python-version", "3.12", "--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-compile"]
    subprocess.run([*command, *target, "--target", str(packages), *PACKAGES], check=True)
    for library in (packages / "bitsandbytes").glob("libbitsandbytes_*.so"):
        if not library.stem.endswith(("cpu", "cuda130")):
            library.unlink()
    base = resolve_base(options.base)
    (options.out / "base").mkdir()
    for path in base.glob("*"):
        if path.suffix in (".json", ".txt", ".model") and path.name != "MANIFEST.json":
            shutil.copyfile(path, options.out / "base" / path.name)
    (options.out / "text").mkdir()
    for name in TEXTS:
        content = (cache_folder() / "debian-de" / f"{name}.txt").read_bytes()
        (options.out / "text" / f"{name}.txt.gz").write_bytes(gzip.compress(content))
    shutil.copyfile(ROOT / "lexicons" / "en-de.tsv", options.out / "text" / "en-de.tsv")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
