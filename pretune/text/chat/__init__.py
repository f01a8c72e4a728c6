"""Conversations: their records, the templates that write them as text, and which characters a model learns."""
