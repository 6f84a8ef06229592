"""Alignment: rows for the new tokens, and the training stage that brings words and their translations together.

base, vocab ─ initialize.py ─► init/ ─ build.py, all ranks ─► align/

    rows.py  mixture.py  lexicon_rows.py  calibrate.py              static rows
    stage.py  distill.py  pieces.py                                 the training stage: what is learned
    units.py  contrast.py  language_model.py
    trainable.py  ranks.py                                          and with what
"""
