"""Tool calls: what a client offers, and how models of several families write that they call.

`styles` chooses by the chat template; `hermes`, `llama`, `mistral` and `qwen` read answers as they
come, `grammar` forces calls.
"""

from exosuit.serve.tools.definitions import CallDelta, Choice, Tool
from exosuit.serve.tools.reading import Parser
from exosuit.serve.tools.styles import HERMES, Style, style_of

__all__ = ["HERMES", "CallDelta", "Choice", "Parser", "Style", "Tool", "style_of"]
