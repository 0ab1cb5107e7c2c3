"""The gateway proper: nouns, deciding, serving, answers, and the translation of backends' errors."""
