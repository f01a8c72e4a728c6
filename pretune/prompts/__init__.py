"""ONE FILE A PROMPT: how a task is put as language modelling, with a word for each label; see `docs/prompting.md`."""
