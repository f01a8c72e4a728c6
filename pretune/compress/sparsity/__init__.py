"""Ways to choose which weights of a projection become zero, one per file.

A file has `sparsify(weight, moments, rate, group) -> weight`, which gives the matrix with its zeros: a fraction of all
(`rate`), or, where `group` is (N, M) and not (0, 0), N of every M neighbours in a row. `READS_INPUTS = True` asks for
`moments`, the mean of x x^T over the inputs x of the projection on calibration data; else they are None.

Shape:
    weight: (out, in) fp32; moments: (in, in) fp32; return: as weight
"""

SHARED_MODULES = ("masks",)
