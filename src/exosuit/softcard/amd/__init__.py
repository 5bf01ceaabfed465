"""Software cards with AMD chips, behind the same link as real ones."""
