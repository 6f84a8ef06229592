"""Packed training text: words found in token ids, switched, packed into sequences, and mixed."""
