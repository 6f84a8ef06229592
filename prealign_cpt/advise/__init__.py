"""What a recipe leaves open, chosen by measurement; and `prealign init`, which writes a recipe from files alone.

    start_token.py   which token starts a text, by the base's bits per byte
    schedule.py      sequence length, batch and steps, by the length of the text
    memory.py        what training needs, and what fits here
    script.py        does the base know the script? (bits per byte beside shuffled text)
    fertility.py     tokens of the text for several numbers of new tokens, and how often each is seen
    choices.py       open keys of a recipe --> flags, kept in RUN/choices.json
    init.py          files --> a commented recipe

Whether new tokens pay is found out by short trials: `prealign sizes`, in the laboratory.
"""
