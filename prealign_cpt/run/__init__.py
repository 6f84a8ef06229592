"""The run folder, its manifests, digests and state; processes, signals and errors. Everything else stands on it."""
