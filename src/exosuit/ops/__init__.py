"""Every kernel with its NumPy reference beside it, and which variant suits which shape."""
