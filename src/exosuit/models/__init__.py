"""Model files, tokenizers, templates, and each architecture as the recording of a graph."""
