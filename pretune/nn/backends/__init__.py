"""Attention backends, one per file, found by name like every axis. Each has

- `PRIORITY`: of those that can do a call the highest is chosen; 0 is chosen by name alone;
- `refuse(call)`: why it cannot do this call, or None;
- `attend(call)`: the mixed values, (Tq, H, D).
"""
