"""Runs compression methods one after another, with training between them, and measures before and after."""
