"""Text to token ids and back, for the vocabularies that GGUF files carry.

`Tokenizer` is the door. `vocabulary` reads the file's token table, `special` finds the tokens that
are matched whole, and one module per family splits ordinary text: `bytelevel` (GPT-2 style BPE,
with its pre-tokenizers in `pretokenizers`), `sentencepiece` (Llama 2, Gemma 1 to 3, Phi 3),
`gemmabpe` (Gemma 4), `wordpiece` (BERT).
"""

from exosuit.models.tokenizer.stream import StreamDecoder
from exosuit.models.tokenizer.tokenizer import Segment, Tokenizer
from exosuit.models.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["Segment", "StreamDecoder", "TokenType", "Tokenizer", "Vocabulary"]
