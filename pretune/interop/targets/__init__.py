"""Engines that a model is exported for, one file each: what they lack, what is written, and how it is read back."""

SHARED_MODULES: tuple[str, ...] = ()
