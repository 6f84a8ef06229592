"""English-Clone: a language made of English text in other letters, with a lexicon and an oracle."""
