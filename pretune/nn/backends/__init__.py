"""Attention backends, one a file. Each has `refuse(call)` (why it cannot do this call, or None) and `attend(call)`."""
