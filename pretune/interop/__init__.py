"""Formats of others: read and written, never trusted."""
