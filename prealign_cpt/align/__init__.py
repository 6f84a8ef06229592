"""Alignment: rows for the new tokens, and the training stage that gives them the meaning of pieces and translations.

base, vocab ─ initialize.py ─► init/ ─ build.py, all ranks ─► align/

    rows.py  mixture.py  lexicon_rows.py                            static rows
    states.py  discriminant.py  calibrate.py                        and what the base's own states correct in them
    stage.py  distill.py  pieces.py                                 the training stage: what is learned
    units.py  contrast.py  language_model.py
    trainable.py  ranks.py                                          and with what
"""
