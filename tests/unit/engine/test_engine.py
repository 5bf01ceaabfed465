"""The engine: texts, ends, counts, company, interruption."""

import pytest
from tests.unit.engine.fakes import FakeRunner, OneOf, Words, alone, scripted, toy_choice

from exosuit.clock import ManualClock
from exosuit.engine.batch import Sampling
from exosuit.engine.engine import Engine
from exosuit.engine.request import Request
from exosuit.errors import CardHung, ContextFull, RequestError

GREEDY = Sampling(temperature=0)
LETTERS = Words([chr(97 + k) for k in range(26)] * 2)


def toy_engine(**limits) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(toy_choice(50), **limits)
    return Engine(runner, LETTERS), runner


def saying(answer: list[int], words: Words) -> Engine:
    runner = FakeRunner(scripted(answer, prompt=1), vocabulary=len(words.pieces))
    return Engine(runner, words)


def answer(engine: Engine, request: Request) -> tuple[list[str], str, list[int], str]:
    """Texts as they came, all of it, tokens, and why it ended."""
    generation = engine.submit(request)
    texts = [event.text for event in engine.follow(generation)]
    assert "".join(texts) == generation.text
    assert generation.finish_reason is not None
    assert engine.is_idle
    return texts, generation.text, generation.tokens, generation.finish_reason


def test_tokens_come_one_by_one_with_their_text():
    words = Words(["Hello", ",", " you", "."], ends=[3])
    texts, _, tokens, reason = answer(saying([0, 1, 2, 3], words), Request((0,)))
    assert texts == ["Hello", ",", " you", ""]
    assert tokens == [0, 1, 2, 3]  # the end is a token, without text
    assert reason == "stop"


def test_max_tokens():
    engine, _ = toy_engine()
    _, text, tokens, reason = answer(engine, Request((1, 2, 3), GREEDY, max_tokens=5))
    assert tokens == alone(toy_choice(50), (1, 2, 3), GREEDY, 5)
    assert len(text) == 5
    assert reason == "length"


def test_an_end_token_at_the_last_allowed_place_is_an_end():
    words = Words(["a", "END"], ends=[1])
    assert answer(saying([0, 1], words), Request((0,), max_tokens=2))[3] == "stop"


def test_characters_are_shown_when_they_are_complete():
    words = Words([b"\xe2", b"\x82", b"\xac", "!"], ends=[3])
    texts, *_ = answer(saying([0, 1, 2, 3], words), Request((0,)))
    assert texts == ["", "", "€", ""]
    texts, *_ = answer(saying([0, 1, 3], words), Request((0,)))
    assert texts == ["", "", "\ufffd"]
    texts, *_ = answer(saying([0, 1], words), Request((0,), max_tokens=2))
    assert texts == ["", "\ufffd"]


@pytest.mark.parametrize(
    ("stop", "texts", "tokens"),
    [
        (("\nUser:",), ["Hi", "", "", ""], 4),
        (("User",), ["Hi", "\n", "", ], 3),
        (("nowhere",), ["Hi", "\n", "User", ": ", "x"], 5),
        (("xyz",), ["Hi", "\n", "User", ": ", "x"], 5),
    ],
)  # fmt: skip
def test_stop_strings_over_token_borders(stop, texts, tokens):
    words = Words(["Hi", "\n", "User", ": ", "x"])
    told = answer(saying([0, 1, 2, 3, 4], words), Request((0,), GREEDY, 5, stop))
    assert told[0] == texts
    assert len(told[2]) == tokens
    assert told[3] == ("length" if tokens == 5 else "stop")


def test_a_stop_string_that_the_last_token_completes_is_a_stop():
    words = Words(["a", "b"])
    told = answer(saying([0, 1], words), Request((0,), GREEDY, 2, ("ab",)))
    assert told[1:] == ("", [0, 1], "stop")


def test_the_context_ends_an_answer_and_says_so():
    engine, _ = toy_engine(context=70)
    generation = engine.submit(Request(tuple(range(40)), GREEDY))
    while not generation.is_finished:
        engine.step()
    assert (generation.finish_reason, generation.context_full) == ("length", True)
    assert len(generation.tokens) == 30
    assert len(generation.text) == 30
    short = engine.submit(Request(tuple(range(40)), GREEDY, max_tokens=3))
    while not short.is_finished:
        engine.step()
    assert (short.finish_reason, short.context_full) == ("length", False)


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers():
    engine, _ = toy_engine(context=70)
    with pytest.raises(ContextFull) as refused:
        engine.submit(Request((1,) * 70))
    assert refused.value.fields == {"prompt_tokens": 70, "context": 70}
    assert "70 tokens" in refused.value.what
    assert engine.is_idle
    assert len(answer(engine, Request((1,) * 69, GREEDY))[2]) == 1


@pytest.mark.parametrize(
    "request_",
    [
        Request(()),
        Request((50,)),
        Request((-1,)),
        Request((1,), max_tokens=0),
        Request((1,), stop=("a", "")),
        Request((1,), Sampling(temperature=-1)),
        Request((1,), Sampling(temperature=float("nan"))),
        Request((1,), Sampling(presence_penalty=float("inf"))),
        Request((1,), Sampling(top_k=-1)),
        Request((1,), Sampling(top_p=1.5)),
        Request((1,), Sampling(min_p=-0.1)),
        Request((1,), Sampling(repetition_penalty=0)),
        Request((1,), Sampling(last_n=0)),
        Request((1,), Sampling(top_logprobs=51)),
        Request((1,), Sampling(logit_bias={50: 1.0})),
        Request((1,), Sampling(logit_bias={1: float("inf")})),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense(request_):
    engine, _ = toy_engine()
    with pytest.raises(RequestError) as refused:
        engine.submit(request_)
    assert str(refused.value).count("\n") == 2
    assert engine.is_idle


def test_more_biases_than_the_device_has_room_for():
    engine = Engine(FakeRunner(toy_choice(50), vocabulary=100), LETTERS)
    with pytest.raises(RequestError, match="65 logits are biased"):
        engine.submit(Request((1,), Sampling(logit_bias=dict.fromkeys(range(65), 1.0))))
    engine.submit(Request((1,), Sampling(logit_bias=dict.fromkeys(range(64), 1.0))))


@pytest.mark.parametrize(("pages", "most"), [(9, 3), (40, 4)])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_company_changes_nothing(monkeypatch, temperature, pages, most):
    """Same seed, other batch: same tokens, through chunks, shortage of pages and shared pages."""
    prompts = [tuple((k * j) % 50 for j in range(20 + 45 * k)) for k in range(1, 5)]
    prompts += [(*prompts[-1][:130], 7, 8, 9), (3,)]
    wanted = [
        Request(prompt, Sampling(temperature=temperature, seed=k), max_tokens=70)
        for k, prompt in enumerate(prompts)
    ]
    engine, runner = toy_engine(max_sequences=4, max_step_tokens=33, pages=pages, context=512)
    begun = []
    forget = runner.forget
    monkeypatch.setattr(runner, "forget", lambda *a: (begun.append(a), forget(*a)))
    together = [engine.submit(request) for request in wanted]
    while not engine.is_idle:
        engine.step()
    for request, generation in zip(wanted, together, strict=True):
        assert generation.tokens == alone(toy_choice(50), request.prompt, request.sampling, 70)
        assert generation.finish_reason == "length"
    assert max(len(runs) for runs in runner.steps) == most
    assert (len(begun) > len(prompts)) == (pages == 9), "somebody had to make room"


def test_other_seeds_give_other_tokens():
    engine, _ = toy_engine()
    told = {tuple(answer(engine, Request((1,), Sampling(seed=seed), 8))[2]) for seed in (1, 2, 1)}
    assert len(told) == 2


def test_usage_counts_what_was_reused():
    engine, runner = toy_engine()
    prompt = tuple(range(50)) * 3
    first = engine.submit(Request(prompt, GREEDY, max_tokens=4))
    list(engine.follow(first))
    second = engine.submit(Request(prompt, GREEDY, max_tokens=4))
    list(engine.follow(second))
    assert (first.usage.reused_tokens, second.usage.reused_tokens) == (0, 128)
    assert second.usage.prompt_tokens == 150
    assert second.usage.completion_tokens == 4
    assert second.tokens == first.tokens
    assert runner.steps[-4][0].start == 128


def test_logprobs_come_with_each_token():
    engine, _ = toy_engine()
    generation = engine.submit(Request((1,), Sampling(temperature=0, top_logprobs=2), 3))
    list(engine.follow(generation))
    for sampled in generation.sampled:
        assert sampled.logprob == -0.5
        assert [token for token, _ in sampled.top] == [sampled.token, sampled.token + 1]


def test_cancelling_keeps_the_text_and_frees_the_place():
    engine, _ = toy_engine(max_sequences=1)
    stays = engine.submit(Request((1,), GREEDY, 6))
    goes = engine.submit(Request((2,), GREEDY, 6))
    engine.cancel(goes)  # while it waits
    assert (goes.finish_reason, goes.text) == ("cancelled", "")
    engine.step()
    engine.step()
    engine.cancel(stays)
    assert (stays.finish_reason, len(stays.text), len(stays.tokens)) == ("cancelled", 2, 2)
    assert engine.is_idle
    engine.cancel(stays)
    assert [event.finish_reason for event in stays.take()] == [None, None, "cancelled"]
    assert answer(engine, Request((1,), GREEDY, 6))[2][:2] == stays.tokens


def test_cancelling_shows_what_was_held_back():
    words = Words(["a", "E", "N"])
    engine = saying([0, 1, 2, 0], words)
    events = engine.stream(Request((0,), GREEDY, 9, ("END",)))
    assert [next(events).text for _ in range(2)] == ["a", ""]
    generation = engine.submit(Request((0,), GREEDY, 9, ("END",)))
    engine.step()
    engine.step()
    engine.cancel(generation)
    assert generation.text == "aE"


def test_leaving_a_stream_cancels_it():
    engine, _ = toy_engine()
    for event in engine.stream(Request((1,), GREEDY)):
        assert event.finish_reason is None
        break
    assert engine.is_idle


def test_is_cancelled_is_asked_between_steps():
    engine, runner = toy_engine()
    events = list(engine.stream(Request((1,), GREEDY), lambda: len(runner.steps) == 3))
    assert [event.finish_reason for event in events] == [None, None, None, "cancelled"]
    assert events[-1].token is None


def test_two_streams_take_turns():
    engine, _ = toy_engine()
    one, two = (engine.stream(Request((k,), GREEDY, 5)) for k in (1, 2))
    pairs = list(zip(one, two, strict=True))
    for k, told in enumerate(zip(*pairs, strict=True), 1):
        tokens = [event.token.token for event in told]
        assert tokens == alone(toy_choice(50), (k,), GREEDY, 5)


def test_a_runner_that_fails_loses_nothing(monkeypatch):
    engine, runner = toy_engine()
    generation = engine.submit(Request((1,), GREEDY, 5))
    engine.step()
    with monkeypatch.context() as broken:
        broken.setattr(runner, "run", lambda runs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    list(engine.follow(generation))
    assert generation.tokens == alone(toy_choice(50), (1,), GREEDY, 5)


def test_rates_are_of_the_engines_clock():
    clock = ManualClock()
    runner = FakeRunner(toy_choice(50), max_step_tokens=50)
    compute = runner.run
    runner.run = lambda runs: (clock.sleep(0.5), compute(runs))[1]
    engine = Engine(runner, LETTERS, clock)
    generation = engine.submit(Request(tuple(range(50)) * 2, GREEDY, 5))
    assert generation.prefill_tok_s is None
    assert generation.decode_tok_s is None
    list(engine.follow(generation))
    assert generation.first_token_s - generation.submitted_s == 1.0
    assert generation.prefill_tok_s == 100.0
    assert generation.decode_tok_s == 2.0


# Constraints --------------------------------------------------------------------------------------


def test_an_answer_keeps_to_its_constraint_in_company():
    """Twelve constrained requests and four free ones, with preemption for want of pages."""
    engine, _ = toy_engine(pages=6, max_sequences=4)
    texts = [[1, 2, 3], [4, 5], [1, 2, 9, 9]]
    free = [engine.submit(Request((k, 7), GREEDY, max_tokens=90)) for k in range(4)]
    bound = [
        engine.submit(Request((k, 8), GREEDY, constraint=OneOf(texts, end=49))) for k in range(12)
    ]
    while not engine.is_idle:
        engine.step()
    for generation in bound:
        assert generation.tokens[:-1] in texts
        assert generation.tokens[-1] == 49
        assert generation.finish_reason == "stop"
    for k, generation in enumerate(free):
        assert generation.tokens == alone(toy_choice(50), (k, 7), GREEDY, 90)


class Broken(OneOf):
    """Fails at its third mask."""

    count = 0

    def mask(self):
        self.count += 1
        if self.count == 3:
            raise RequestError("too deep", cause="a test", next="nothing")
        return super().mask()


def test_a_constraint_that_fails_ends_its_own_request_only():
    engine, _ = toy_engine()
    broken = engine.submit(
        Request((1, 2), GREEDY, constraint=Broken([[1, 2, 3, 4]], end=49), max_tokens=9)
    )
    other = engine.submit(Request((1, 2, 3), GREEDY, max_tokens=9))
    events = list(engine.follow(broken))
    assert broken.finish_reason == "error"
    assert isinstance(broken.error, RequestError)
    assert broken.tokens == [1, 2]
    assert events[-1].finish_reason == "error"
    list(engine.follow(other))
    assert other.tokens == alone(toy_choice(50), (1, 2, 3), GREEDY, 9)


# Another runner -----------------------------------------------------------------------------------


class Flaky(FakeRunner):
    """Is lost at a step."""

    def __init__(self, at: int, **limits):
        super().__init__(toy_choice(50), **limits)
        self._at = at

    def run(self, runs):
        if len(self.steps) == self._at:
            raise CardHung("lost", cause="a test", next="nothing")
        return super().run(runs)


@pytest.mark.parametrize("at", [0, 1, 2, 5, 9])
def test_generations_go_on_where_they_were_on_another_runner(at):
    engine = Engine(Flaky(at, pages=8), LETTERS)
    drawn = Sampling(seed=5)
    prompts = [tuple(range(k, 30 + 7 * k)) for k in range(1, 7)]
    work = [
        engine.submit(Request(tuple(t % 50 for t in prompt), sampling, max_tokens=12))
        for prompt, sampling in zip(prompts, [GREEDY, drawn] * 3, strict=True)
    ]
    texts = {generation.id: "" for generation in work}
    lost = 0
    while not engine.is_idle:
        try:
            engine.step()
        except CardHung:
            lost += 1
            assert engine.resume_on(FakeRunner(toy_choice(50), pages=9, max_sequences=3)) == []
        for generation in work:
            texts[generation.id] += "".join(event.text for event in generation.take())
    assert lost == 1
    for generation in work:
        request = generation.request
        expected = alone(toy_choice(50), request.prompt, request.sampling, 12)
        assert generation.tokens == expected
        assert (
            texts[generation.id]
            == generation.text
            == "".join(LETTERS.pieces[token].decode() for token in expected)
        )


def test_what_a_smaller_runner_cannot_hold_ends_with_an_error():
    engine = Engine(Flaky(1, context=512), LETTERS)
    long = engine.submit(Request((1,) * 90, GREEDY, max_tokens=5))
    short = engine.submit(Request((2,) * 3, GREEDY, max_tokens=5))
    engine.step()
    with pytest.raises(CardHung):
        engine.step()
    assert engine.resume_on(FakeRunner(toy_choice(50), context=64)) == [long]
    assert isinstance(long.error, ContextFull)
    assert list(engine.follow(short))
    assert short.tokens == alone(toy_choice(50), (2,) * 3, GREEDY, 5)


def test_all_end_with_an_error_where_nothing_can_take_over():
    engine = Engine(Flaky(1), LETTERS)
    work = [engine.submit(Request((k,), GREEDY, max_tokens=5)) for k in range(6)]
    engine.step()
    problem = CardHung("lost", cause="a test", next="nothing")
    assert engine.fail(problem) == work
    assert engine.is_idle
    assert all(generation.error is problem for generation in work)
    assert [generation.take()[-1].finish_reason for generation in work] == ["error"] * 6
