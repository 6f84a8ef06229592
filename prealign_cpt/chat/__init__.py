"""A model that answers, out of one that continues text.

                                    residual.py: body and old rows += instruct - base
RUN/export ──┤                                                                            ├─ command.py ─► RUN/chat
              instructions.py ► crossing.py ► render.py ► rows.py ► the training's loop
                                                                       measure.py: answers, languages, bits per byte
"""
