"""Alignment: rows for the new tokens, and the training stage that brings words and their translations together.

base, vocab ─ initialize.py ─► init/ ─ build.py, all ranks ─► align/

    rows.py  mixture.py  lexicon_rows.py  calibrate.py              static rows
    stage.py  units.py  contrast.py  language_model.py              the training stage: what is learned
    trainable.py  ranks.py                                          and with what
"""
