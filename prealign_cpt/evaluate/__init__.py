"""What a model can do: measures on local files, each with its interval, on one subject or several.

    command --> compare --> suite --MEASURES--> the rooms: measure(subject, work) --> figures --> results, table
                 subject: the model, and its servers      work: the data (read.py has their formats)

    text             tokenizer, bits per byte, patterns in context
    representation   are words and sentences of both languages near each other? lexicon induction, MEXA, bitext, mteb
    transfer         is what was learned in one language known in the other? zero-shot, CLKA, the mixed matrix
    generation       is the right language written, and well? language confusion, translation
    harness          lm-evaluation-harness on the served model

A room imports from this folder, and from a room above it in this list. Training uses bits.py (bits per byte) and
scores.py (a stage's figures) alone.
"""
