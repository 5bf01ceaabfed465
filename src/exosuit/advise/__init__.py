"""What fits and how fast (`plan`), what is wrong (`doctor`), what is true (`bench`).

Advice is read from the floors below and from measurements; nothing here changes a card or a model.
"""
