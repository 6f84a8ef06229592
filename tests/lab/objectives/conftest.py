"""The grown model and the invented languages of the alignment's tests."""

from tests.align.conftest import grown, num_old, ring, stage

__all__ = ["grown", "num_old", "ring", "stage"]
