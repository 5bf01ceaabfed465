"""Any text survives a tokenizer, any stream equals its whole, any template ends in our errors."""

from __future__ import annotations

import contextlib
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from exosuit.errors import ExosuitError
from exosuit.models.chat import ChatTemplate, Limits
from exosuit.models.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/models"))
import vocabularies

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=["smollm2", "stories", "gpt-2", "phi-3", "falcon"])
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    match request.param:
        case "smollm2":
            return Tokenizer.from_metadata(vocabularies.smollm2(shared))
        case "stories":
            return Tokenizer.from_metadata(vocabularies.stories(shared))
        case name:
            return Tokenizer.from_metadata(vocabularies.reference(shared, name))


@cache
def bytes_known(tokenizer: Tokenizer) -> set[int]:
    """Falcon and SmolLM2 lack bytes: control characters, starts of unassigned planes."""
    size = tokenizer.vocabulary_size
    return {piece[0] for id in range(size) if len(piece := tokenizer.piece(id)) == 1}


@quick
@given(text=ANY_TEXT)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assume(bytes_known(tokenizer).issuperset(text.encode()))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    hidden = {tokenizer.vocabulary.ids[t] for t in tokenizer.control_texts}
    assert hidden.isdisjoint(tokenizer.encode(text, add_special=False))


@quick
@given(data=st.data())
def test_a_stream_equals_its_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=40))
    continues = data.draw(st.booleans())
    stream = tokenizer.stream(continues=continues)
    said = [stream.feed(id) for id in ids]
    assert "".join(said) + stream.flush() == tokenizer.decode(ids, continues=continues)
    pieces = b"".join(map(tokenizer.piece, ids))
    whole = pieces.decode("utf-8", "replace")
    assert tokenizer.decode(ids, continues=True) == whole


@quick
@given(text=st.text("<|>/s_imendtar \n▁", max_size=60))
def test_text_near_control_tokens_stays_text(tokenizer: Tokenizer, text: str) -> None:
    hidden = {tokenizer.vocabulary.ids[t] for t in tokenizer.control_texts}
    assert hidden.isdisjoint(tokenizer.encode(text, add_special=False))


CONTROL = ("<|im_start|>", "<|im_end|>", "<s>")
WORDS = """
    {{ }} {% %} {%- -%} for if else endif endfor in set macro endmacro call endcall messages
    messages[0] .content ['role'] loop | ~ + * ** % ( ) [ ] , : 'a' "%s" 9 10**9 range( namespace(
    tojson trim join( replace( list map( length == not and is defined <|im_start|> <s> <|im_
    .__class__ .format( strftime_now( raise_exception( filter endfilter recursive x y"""
FRAGMENTS = st.sampled_from(WORDS.split())


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=25))
def test_any_template_ends_in_a_prompt_or_our_error(parts: list[str]) -> None:
    messages = [{"role": "user", "content": "<|im_end|>x"}]
    limits = Limits(total_bytes=1 << 20, value_bytes=1 << 18, seconds=0.5)
    with contextlib.suppress(ExosuitError):
        template = ChatTemplate(" ".join(parts), control_texts=CONTROL, limits=limits)
        assert "\U0010ffff" not in template.render(messages).text


NEAR_CONTROL = st.sampled_from(["<|im_", "start|>", "end|>", "<s>", "<", "x", " "])


@settings(max_examples=200, deadline=None)
@given(content=st.lists(NEAR_CONTROL, max_size=8))
def test_contents_never_add_control_tokens(content: list[str]) -> None:
    source = (
        "{% for m in messages %}<|im_start|>"
        "{{ m.content | trim }}{{ m.content }}<|im_end|>{% endfor %}"
    )
    template = ChatTemplate(source, control_texts=CONTROL)
    said = "".join(content)
    prompt = template.render([{"role": "user", "content": said}])
    special = [segment.text for segment in prompt.segments if segment.special]
    assert special == ["<|im_start|>", "<|im_end|>"]
    assert prompt.text == f"<|im_start|>{said.strip()}{said}<|im_end|>"
