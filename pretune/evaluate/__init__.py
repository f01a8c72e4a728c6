"""Scores of finished models: tasks on labelled examples, objectives on a token store."""
