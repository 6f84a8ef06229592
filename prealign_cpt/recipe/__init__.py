"""The recipe: frozen dataclasses (schema.py), and TOML files and flags (file.py)."""
