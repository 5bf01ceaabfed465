"""Every access on the bus: recorded raw, named on display, replayed, compared.

`Recorder` wraps a link and is a link; `Replay` is a link made of a tape. So a boot recorded once on
a real card becomes a permanent test on any laptop. Nothing is recorded unless somebody wraps.
"""
