"""Graphs: the steps of a token, recorded once, replayed with one call."""

from exosuit.graph.arena import Arena
from exosuit.graph.recorder import Graph

__all__ = ["Arena", "Graph"]
