"""Chat messages to the text a model was trained on, through the template that its file carries.

`template` is the door. Templates are programs by strangers: `sandbox` runs them, `budget` says how
much they may use, `operations` which filters and methods they have. `trust` keeps apart what the
template wrote from what the messages said, so that only the former becomes control tokens. `tools`
renders conversations with tool calls, also where the template knows nothing of them.
"""

from exosuit.models.chat.budget import Limits
from exosuit.models.chat.template import ChatTemplate, Prompt
from exosuit.models.chat.tools import render_conversation

__all__ = ["ChatTemplate", "Limits", "Prompt", "render_conversation"]
