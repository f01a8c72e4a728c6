"""Attention back ends, one a file. Each has `refuse` (why it cannot do this call, or None) and `attend`."""
