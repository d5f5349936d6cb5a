"""The engine: what it writes is what the model writes alone, whoever else is in the batch, and whenever they came."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from tests.families.conftest import NAMES, options_of, published  # noqa: F401 (a fixture)
from xtune.model.load import load_model
from xtune.serve import engine as engine_module
from xtune.serve.engine import Busy, Engine, Job
from xtune.serve.sampling import Sampling, choose


class Outcome:
    """A job, and waiting for its end."""

    def __init__(self, prompt, sampling, stop_ids=(), take=lambda _: False, adapter=None):
        self.ended, self.result = threading.Event(), None
        self.job = Job(np.asarray(prompt), sampling, frozenset(stop_ids), take, self._end, adapter)

    def _end(self, result):
        self.result = result
        self.ended.set()

    def wait(self):
        assert self.ended.wait(60)
        return self.result


def alone(model, prompt, tokens):
    """What `generate` writes, greedily."""
    ids = torch.tensor([list(map(int, prompt))])
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return written[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), dtype="float32")


@pytest.fixture
def engine(model):
    engine = Engine(model)
    yield engine
    engine.stop()


REQUEST = st.tuples(st.lists(st.integers(3, 49000), min_size=1, max_size=30), st.integers(1, 12))


@settings(max_examples=12, deadline=None)
@given(requests=st.lists(REQUEST, min_size=1, max_size=5), gate=st.integers(1, 8))
def test_greedy_answers_in_any_batch_are_those_of_generate(model, requests, gate):
    """Some requests come when the first has written `gate` tokens, so that they join a batch under way."""
    engine = Engine(model)
    rest, sent = [], threading.Event()

    def take(token):
        if not sent.is_set() and len(first.job.tokens) >= min(gate, requests[0][1] - 1):
            sent.set()
            engine.submit(*(outcome.job for outcome in rest))
        return False

    first, *rest = (
        Outcome(prompt, Sampling(tokens, temperature=0), take=take) for prompt, tokens in requests
    )
    engine.submit(first.job)
    first.wait()
    if not sent.is_set():
        engine.submit(*(outcome.job for outcome in rest))
    for (prompt, tokens), outcome in zip(requests, [first, *rest], strict=True):
        assert outcome.wait() == "length"
        assert outcome.job.tokens == alone(model, prompt, tokens)
    engine.stop()


@pytest.mark.parametrize("name", NAMES)
def test_each_family_answers_in_a_batch_as_alone(name, published):  # noqa: F811
    model = load_model(published(name), options=options_of(name), dtype="float32")
    tail = []
    if name == "chatglm_6b":  # no prompt without them
        tail = [model.config.gmask_token_id, model.config.bos_token_id]
    # long enough for families that do something else past the length they were trained with
    long = min(model.config.max_position_embeddings - 12, 60)
    random = np.random.default_rng(0)
    prompts = [[*random.integers(10, 90, size).tolist(), *tail] for size in (5, 19, long, 3)]
    engine = Engine(model)
    outcomes = [Outcome(prompt, Sampling(8, temperature=0)) for prompt in prompts]
    engine.submit(*(outcome.job for outcome in outcomes))
    assert [outcome.wait() for outcome in outcomes] == ["length"] * 4
    engine.stop()
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        assert outcome.job.tokens == alone(model, prompt, 8)


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "pad_token_id": 0,
}
OTHERS = {
    "a window": ("mistral", {"num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 8}),
    "a window in every second layer": (
        "gemma2",
        {"num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": 8, "head_dim": 8},
    ),
    "learnt positions": ("gpt2", {}),
    "slopes for positions": ("bloom", {}),
    "a state for a cache": ("mamba", {"state_size": 4}),
    "windows and a state": (
        "recurrent_gemma",
        {"intermediate_size": 48, "attention_window_size": 8, "lru_width": 32, "num_hidden_layers": 3},
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_models_of_every_kind_answer_in_a_batch_as_alone(kind):
    name, sizes = OTHERS[kind]
    config = AutoConfig.for_model(name, **{**SIZES, **sizes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    prompts = [np.random.default_rng(0).integers(3, 99, size) for size in (5, 20, 2)]
    engine = Engine(model)
    outcomes = [
        Outcome(prompt, Sampling(tokens, temperature=0))
        for prompt, tokens in zip(prompts, (14, 6, 9), strict=True)
    ]
    engine.submit(*(outcome.job for outcome in outcomes))
    assert [outcome.wait() for outcome in outcomes] == ["length"] * 3
    engine.stop()  # some keep their state in the model, where two that write would mix theirs
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        assert outcome.job.tokens == alone(model, prompt, len(outcome.job.tokens))


def test_adapters_of_a_model_that_keeps_a_state_do_not_mix():
    name, sizes = OTHERS["windows and a state"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(name, **{**SIZES, **sizes}), dtype=torch.float32
    )
    lora = LoraConfig(target_modules=["linear_x", "q_proj"], init_lora_weights=False)
    model = get_peft_model(model.eval(), lora, adapter_name="a")
    model.add_adapter("b", lora)
    prompts = [np.random.default_rng(seed).integers(3, 99, 7) for seed in range(4)]
    engine = Engine(model)
    outcomes = [
        Outcome(prompt, Sampling(12, temperature=0), adapter=adapter)
        for prompt, adapter in zip(prompts, "abab", strict=True)
    ]
    engine.submit(*(outcome.job for outcome in outcomes))
    assert [outcome.wait() for outcome in outcomes] == ["length"] * 4
    engine.stop()
    for prompt, adapter, outcome in zip(prompts, "abab", outcomes, strict=True):
        model.set_adapter(adapter)
        assert outcome.job.tokens == alone(model, prompt, 12)


def test_a_seed_gives_the_same_answer_whatever_else_is_written(engine):
    def ask(seed):
        return Outcome(range(10, 30), Sampling(12, temperature=1.5, top_p=0.9, seed=seed))

    first = ask(7)
    engine.submit(first.job)
    first.wait()
    crowd = [ask(seed) for seed in (1, 7, 2, 7)]
    engine.submit(*(outcome.job for outcome in crowd))
    for outcome in crowd:
        outcome.wait()
    same = [outcome.job.tokens == first.job.tokens for outcome in crowd]
    assert same == [False, True, False, True]


def test_answers_end_at_a_stop_token_and_where_they_are_told_to(model, engine):
    prompt, written = range(10, 30), alone(model, range(10, 30), 8)
    stop = written[3]
    place = written.index(stop)
    stopped = Outcome(prompt, Sampling(8, temperature=0), [stop])
    told = []

    def take(token):
        told.append(token)
        return len(told) == 2

    cut = Outcome(prompt, Sampling(8, temperature=0), take=take)
    engine.submit(stopped.job, cut.job)
    assert (stopped.wait(), stopped.job.tokens) == ("stop", written[: place + 1])
    assert (cut.wait(), cut.job.tokens) == ("stop", written[:2])


def test_a_cancelled_answer_makes_room_and_others_go_on(model, engine):
    began = threading.Event()
    endless = Outcome(range(5), Sampling(400, temperature=0), take=lambda _: began.set())
    engine.submit(endless.job)
    assert began.wait(60)
    endless.job.cancelled = True
    other = Outcome(range(10, 20), Sampling(6, temperature=0))
    engine.submit(other.job)
    other.wait()
    assert other.job.tokens == alone(model, range(10, 20), 6)
    assert len(endless.job.tokens) < 400
    assert not endless.ended.is_set()


def test_too_many_are_sent_away(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "WAITING", 2)
    jobs = [Outcome(range(5), Sampling(1)).job for _ in range(3)]
    with pytest.raises(Busy):
        engine.submit(*jobs)


def test_a_failure_ends_its_answer_and_not_the_engine(engine, model, capsys):
    def fail(token):
        raise ValueError("told to")

    failing, other = (
        Outcome(range(9), Sampling(4, temperature=0), take=take) for take in (fail, lambda _: False)
    )
    beyond = Outcome([10**6], Sampling(4))  # no such token
    engine.submit(failing.job, beyond.job, other.job)
    assert isinstance(failing.wait(), ValueError)
    assert isinstance(beyond.wait(), IndexError)
    assert other.wait() == "length"
    assert other.job.tokens == alone(model, range(9), 4)


def test_the_repetition_penalty_of_the_publisher_counts(model):
    model.generation_config.repetition_penalty = 1.8
    try:
        engine = Engine(model)
        outcome = Outcome(range(10, 20), Sampling(10, temperature=0))
        engine.submit(outcome.job)
        outcome.wait()
        assert outcome.job.tokens == alone(model, range(10, 20), 10)
        engine.stop()
    finally:
        model.generation_config.repetition_penalty = None


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (2.0, 0.01)])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature, top_p):
    logits = torch.tensor([2.0, -torch.inf, 1.0, 0.0, 1.5])
    expected = (logits / temperature).softmax(-1).numpy()
    order = np.argsort(-expected)
    before = np.cumsum(expected[order]) - expected[order]
    expected[order[before >= top_p]] = 0
    expected /= expected.sum()
    random = np.random.default_rng(0)
    sampling = Sampling(1, temperature, top_p)
    drawn = np.bincount([choose(logits, sampling, random) for _ in range(4000)], minlength=5) / 4000
    assert drawn == pytest.approx(expected, abs=0.03)
    assert drawn[1] == 0


def test_a_temperature_near_zero_is_greedy():
    logits = torch.tensor([3.0, 900.0, 5.0])
    assert choose(logits, Sampling(1, 1e-9), np.random.default_rng(0)) == 1
    assert choose(logits, Sampling(1, 1.0, top_p=0.0), np.random.default_rng(0)) == 1
