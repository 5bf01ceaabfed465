"""The ops in the shape of GPUs: a value is one lane's, a lane is one row of a matrix.

Only what depends on the shape of the machine is here; formats, prologues, epilogues and the NumPy
references are those of `exosuit.ops`. `ops.variants` says which target runs which.
"""
