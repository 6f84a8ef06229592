"""What languages a recipe's text is in, what of its test text stands in its training text, and a clean copy of it.

recipe or run --command--> tasks --read, all cores--> counts, hits, clean documents --command--> audit.json, table
     judge.py: the language of a line    overlap.py: lines of test text    pairs.py: held-out words
     duplicates.py: which documents of the clean copy were there before
"""
