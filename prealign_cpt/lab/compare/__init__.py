"""`prealign compare`: variants of a recipe over seeds, at equal bytes or FLOPs, in one table."""
