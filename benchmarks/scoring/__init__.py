"""lm-eval's own command with pretune's models and with its own `hf` model: the same numbers, in which time."""
