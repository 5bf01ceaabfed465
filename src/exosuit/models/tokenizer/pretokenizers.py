"""How byte-level BPE models cut text into words before merging: one row per published pattern.

`tokenizer.ggml.pre` names the row. Each row is the list of regular expressions that the model's
own `tokenizer.json` (or tiktoken definition) applies in turn; matches and gaps become words. A name
that is not here is refused: a wrong pattern gives plausible ids and a dull model.
Sources: the tokenizer.json of each family; names and groups as in llama.cpp `src/llama-vocab.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass

from exosuit.errors import UnsupportedModel


@dataclass(frozen=True)
class PreTokenizer:
    """patterns: applied in turn; ignore_merges: a word that is a token stays one, merges or not."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
)
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN35 = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + _SPACES
)
# words cut where lower case turns to upper: o200k (with contractions) and tekken (without)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)
_CJK = "[一-龥ࠀ-一가-퟿]+"

_DIGITS_THEN_GPT2 = PreTokenizer((r"\p{N}", _GPT2))
_ROWS: dict[tuple[str, ...], PreTokenizer] = {
    (
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "jais",
        "trillion",
        "exaone4",
        "gigachat",
        "a.x-4.0",
        "mellum",
        "granite-docling",
    ): PreTokenizer((_GPT2,)),
    (
        "smollm",
        "starcoder",
        "refact",
        "command-r",
        "codeshell",
        "exaone",
        "minerva-7b",
    ): _DIGITS_THEN_GPT2,
    (
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
    ): PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): PreTokenizer((_LLAMA3,)),
    (
        "qwen2",
        "deepseek-r1-qwen",
        "stablelm2",
        "hunyuan",
        "megrez",
        "solar-open",
    ): PreTokenizer((_QWEN2,)),
    ("qwen35",): PreTokenizer((_QWEN35,)),
    ("tekken",): PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    ("gpt-4o", "llama4", "kanana2"): PreTokenizer((_GPT4O,)),
    ("falcon",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("deepseek-coder",): PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    ("deepseek-v3", "hunyuan-dense"): PreTokenizer(
        (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK_V3)
    ),
    ("default",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
_BY_NAME = {name: row for names, row in _ROWS.items() for name in names}


def known_names() -> list[str]:
    """Every pre-tokenizer that is understood, sorted."""
    return sorted(_BY_NAME)


def named(name: str | None) -> PreTokenizer:
    """The row that `tokenizer.ggml.pre` names. Raises UnsupportedModel for any other name."""
    row = _BY_NAME.get(name) if name is not None else None
    if row is None:
        said = "names no pre-tokenizer" if name is None else f"needs the pre-tokenizer {name!r}"
        raise UnsupportedModel(
            f"the model {said}, so its text cannot be cut into tokens",
            cause="guessing the pattern would give wrong tokens without any other sign"
            if name is None
            else "this version of exosuit does not know that pattern",
            next="choose another conversion of the model (tokenizer.ggml.pre), or report the name",
            pre_tokenizer=name,
        )
    return row
