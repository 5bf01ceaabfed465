"""The command line: it composes the floors below and prints what they say."""
