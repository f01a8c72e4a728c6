"""Kernels in C for one-token steps and rounded weights, and what stands for them where there is no compiler."""
