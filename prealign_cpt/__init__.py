"""Extend an English-centric language model to a new language, and serve the result."""

__version__ = "0.1.0"
