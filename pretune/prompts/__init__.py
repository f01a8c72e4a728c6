"""ONE FILE A PROMPT: how a task is put as language modelling, with a word for each label; see `docs/prompting.md`.

A prompt is a TOML file, so that a user writes one without Python: `prompt.py` says what it holds and reads it, one of
the tree by its name and a user's own by its path. `choosing/` and `calibration/` are axes of their own: how the solved
examples of a prompt are chosen, and what is taken from the scores of labels.
"""
