# What exosuit uses of llvmlite, whose own annotations are partial.

__version__: str
