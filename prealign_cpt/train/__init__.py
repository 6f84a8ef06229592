"""Continual pretraining: shards, steps, optimizer, checkpoints, metrics."""
