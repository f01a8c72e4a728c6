"""Formats of weights, one file each: how a matrix is stored, and what multiplies by it."""
