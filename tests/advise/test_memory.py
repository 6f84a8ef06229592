"""What fits where."""

from pathlib import Path

from prealign_cpt.advise.memory import Machine, fits, num_parameters
from prealign_cpt.model.load import load_whole


def test_parameters_are_counted_without_weights(base_folder: Path):
    assert num_parameters(base_folder) == sum(p.numel() for p in load_whole(base_folder).parameters())


def test_what_fits():
    keys, told = fits(10**9, Machine("GPU", 1, 80e9))
    assert keys == {} and "about 20.0 GB of 80.0 GB" in told
    keys, _ = fits(10**9, Machine("GPU", 1, 24e9))
    assert keys == {"train.checkpoint_activations": "full"}
    keys, _ = fits(10**9, Machine("GPU", 1, 16e9))
    assert keys == {"train.optimizer": "adamw8bit", "train.checkpoint_activations": "full"}
    keys, told = fits(8 * 10**9, Machine("GPU", 8, 80e9))
    assert keys == {} and "8 GPU(s)" in told
    _, told = fits(8 * 10**9, Machine("GPU", 1, 24e9))
    assert "does not fit" in told and "5 devices" in told
