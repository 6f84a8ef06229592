"""The word list: formats, cleaning, and the split into a training and a held-out half."""
