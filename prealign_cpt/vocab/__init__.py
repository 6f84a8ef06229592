"""The tokenizer: new tokens learned and grown onto the base's."""
