"""Chat templates for models that have none: ONE FILE A TEMPLATE, with `TEMPLATE` and its special tokens, `MARKS`."""
