"""What a model can do: measures on local files, each figure with its interval, on one subject or several.

command --> suite --MEASURES--> measure(subject, data) --> statistics --> figures (files) --> table
stage (the eval stage of a run): the preset "quick" of the same suite on base, aligned and trained model

tokenizer, language_model, icl      tokens, bits per byte, patterns in context
words, sentences, mteb_tasks        are words and sentences of both languages near each other?
transfer, clka                      is what was learned in one language known in the other?
generation                          is the right language written (confusion), and well?
lm_harness                          lm-evaluation-harness on the served model

subject: the model, and its servers (served)      data: the evaluation data and their formats
"""
