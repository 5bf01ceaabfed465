"""`EncoderRecording`: what an encoder writes down besides the words of every recording.

A step holds whole texts, side by side. The facts of `StepBuffers` mean the same as for a decoder,
where an encoder has a use for them: `slots` says which text a token is of, and `tiles` has one
entry for each text, its first token and its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exosuit.driver.device import Region
from exosuit.models.recording import Recording
from exosuit.ops.elementwise import activate, add, chunks
from exosuit.ops.encoding import attend_span, mean_of_span, turn_keys
from exosuit.ops.norm import layer_norm
from exosuit.ops.rows import gather_rows


@dataclass(frozen=True)
class LayerNorm:
    """Weight and bias f32[width] on the device, and epsilon."""

    weight: Region
    bias: Region
    epsilon: float


class EncoderRecording(Recording):
    """A recording of `tokens` tokens in at most `step.limits.sequences` texts."""

    def layer_norm(self, x: Region, norm: LayerNorm, out: Region) -> None:
        """Normalise rows of f32[width] into `out`, which is another region than x."""
        program = self._programs.get(layer_norm, width=self.width, eps=norm.epsilon)
        self.graph.launch(program, self.tokens, x, norm.weight, norm.bias, out)

    def add_places(self, places: Region, x: Region) -> None:
        """`x += places[positions]`; places f32[context, width]."""
        found = self.floats("places", self.width)
        program = self._programs.get(gather_rows, width=self.width)
        self.graph.launch(program, self.tokens, places, self.step.positions, found)
        count = self.tokens * self.width
        self.graph.launch(self._programs.get(add), chunks(count), x, found, count)

    def activate(self, x: Region, width: int, activation: Literal["silu", "gelu"]) -> None:
        """`x = activation(x)`, f32[tokens, width]."""
        count = self.tokens * width
        program = self._programs.get(activate, activation=activation)
        self.graph.launch(program, chunks(count), x, count)

    def attend_span(self, qkv: Region, heads: int, head_dim: int, longest: int) -> Region:
        """Each token over its whole text, of at most `longest` tokens.

        qkv f32[tokens, 3 * heads * head_dim]; returns f32[tokens, heads * head_dim].
        """
        width, step = heads * head_dim, self.step
        keys, out = self.floats("keys", width), self.floats("attended", width)
        program = self._programs.get(turn_keys, width=width)
        self.graph.launch(program, width, qkv, keys, self.tokens)
        program = self._programs.get(attend_span, heads=heads, head_dim=head_dim, longest=longest)
        self.graph.launch(
            program, self.tokens * heads, qkv, keys, step.slots, step.tiles, out, self.tokens
        )
        return out

    def pool(self, x: Region, pooling: Literal["mean", "first", "last"], out: Region) -> None:
        """One row for each text: f32[sequences, width].

        "first" and "last" take the token that the step's `rows` name.
        """
        count = self.step.limits.sequences
        if pooling == "mean":
            program = self._programs.get(mean_of_span, width=self.width)
            self.graph.launch(program, count, x, self.step.tiles, out)
        else:
            program = self._programs.get(gather_rows, width=self.width)
            self.graph.launch(program, count, x, self.step.rows, out)
