"""The engine: sequences to tokens."""
