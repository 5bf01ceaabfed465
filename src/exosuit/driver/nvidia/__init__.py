"""NVIDIA cards: a `Route` to a card becomes a `Device`; see `route` for the seam between them."""
