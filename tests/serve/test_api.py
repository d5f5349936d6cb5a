"""The API as OpenAI's own client uses it, over a real connection to a tiny model."""

from __future__ import annotations

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.serve.conftest import running
from xtune.serve import app, engine
from xtune.templates.template import find_template
from xtune.templates.tool_calls import parse_tool_calls

ASK = [{"role": "user", "content": "Who are you?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server(tiny_model, tool_model, make_adapter, tmp_path_factory):
    adapter = make_adapter(tiny_model, tmp_path_factory.mktemp("served") / "adapter", scale=0.5)
    with running([f"tiny={tiny_model}", str(adapter), str(tool_model)]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def create(client):
    def create(**asked):
        return client.chat.completions.create(
            **{"model": "tiny", "messages": ASK, "max_tokens": 8, "temperature": 0, **asked}
        )

    return create


def post(server, body, **headers):
    """Status, headers and content of what a request by hand gets."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **headers})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def test_models_are_listed_by_name(client, server):
    assert [model.id for model in client.models.list()] == ["tiny", "adapter", "tools"]
    assert client.models.retrieve("adapter").id == "adapter"
    # an adapter shares its base
    engines = [model.engine for model in server.served.values()]
    assert engines[0] is engines[1] is not engines[2]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_an_answer_and_its_usage(create):
    answer = create()
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_an_answer_ends_with_the_context(create):
    answer = create(max_completion_tokens=5000, messages=[{"role": "user", "content": "word " * 465}])
    assert answer.usage.completion_tokens < 20
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 512


def test_adapters_on_one_base_answer_side_by_side(create):
    names = ["tiny", "adapter"] * 3

    def ask(name):
        return create(model=name, max_tokens=20).choices[0].message.content

    alone = {name: ask(name) for name in set(names)}
    assert alone["tiny"] != alone["adapter"]
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(ask, names)) == [alone[name] for name in names]


def test_a_stream_says_what_the_whole_answer_says(create):
    whole = create(n=2, temperature=1, seed=3, max_tokens=30)
    texts, reasons = ["", ""], [None, None]
    for chunk in create(
        n=2, temperature=1, seed=3, max_tokens=30, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        usage = chunk.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_a_stop_string_ends_an_answer_and_is_not_in_it(create, scripted):
    scripted("One two three four")
    for stop in ("hree", ["zzz", " three"]):
        choice = create(stop=stop, max_tokens=None).choices[0]
        assert choice.finish_reason == "stop"
        assert choice.message.content.rstrip(" t") == "One two"
        streamed = "".join(part.choices[0].delta.content or "" for part in create(stop=stop, stream=True))
        assert streamed == choice.message.content


def test_calls_of_tools(create, scripted):
    scripted(f"Let me see.\n{CALL}\n{CALL.replace('Köln', 'Bonn')}")
    choice = create(model="tools", tools=TOOLS, max_tokens=None).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Köln"}, {"city": "Bonn"}]
    assert calls[0].id != calls[1].id
    text, streamed = "", []
    for chunk in create(model="tools", tools=TOOLS, max_tokens=None, stream=True):
        text += chunk.choices[0].delta.content or ""
        streamed += chunk.choices[0].delta.tool_calls or []
        reason = chunk.choices[0].finish_reason
    assert (text, reason) == ("Let me see.", "tool_calls")
    assert [call.index for call in streamed] == [0, 1]
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]


def test_results_of_tools_reach_the_model(create, server, scripted):
    scripted(CALL)
    first = create(model="tools", tools=TOOLS, max_tokens=None).choices[0].message
    scripted("It rains.")
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"}
    asked = [*ASK, first, result]
    answer = create(model="tools", tools=TOOLS, messages=asked, max_tokens=None)
    assert answer.choices[0].message.content == "It rains."
    assert answer.choices[0].finish_reason == "stop"
    plain = create(model="tools", tools=TOOLS, max_tokens=1).usage.prompt_tokens
    assert answer.usage.prompt_tokens > plain


def test_without_tools_calls_are_text(create, scripted):
    scripted(CALL)
    assert create(model="tools", max_tokens=None).choices[0].message.content == CALL
    chosen = create(model="tools", tools=TOOLS, tool_choice="none", max_tokens=None).choices[0].message
    assert chosen.content == CALL
    assert parse_tool_calls(CALL, find_template("qwen2_5")).calls


@pytest.mark.parametrize(
    ("asked", "error", "param", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model", "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "messages", None),
        ({"messages": [{"role": "user", "content": 5}]}, openai.BadRequestError, "messages.0.content", None),
        (
            {"messages": [{"role": "friend", "content": "Hi"}]},
            openai.BadRequestError,
            "messages.0.role",
            None,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            openai.BadRequestError,
            "messages.0.content",
            None,
        ),
        (
            {"messages": [{"role": "user", "content": "word " * 600}]},
            openai.BadRequestError,
            "messages",
            "context_length_exceeded",
        ),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", None),
        ({"temperature": -1}, openai.BadRequestError, "temperature", None),
        ({"n": 99}, openai.BadRequestError, "n", None),
        ({"stop": [""]}, openai.BadRequestError, "stop.0", None),
        ({"tools": TOOLS}, openai.BadRequestError, "tools", None),
        (
            {"model": "tools", "tools": TOOLS, "tool_choice": "required"},
            openai.BadRequestError,
            "tool_choice",
            None,
        ),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty", None),
        ({"logprobs": True}, openai.BadRequestError, "logprobs", None),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format.type", None),
        ({"extra_body": {"chat_template_kwargs": {"nonsense": 1}}}, openai.BadRequestError, "messages", None),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(create, asked, error, param, code):
    with pytest.raises(error) as refused:
        create(**asked)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert "Traceback" not in refused.value.message


def test_what_changes_nothing_is_passed_over(create):
    passed = create(
        presence_penalty=0, logit_bias={}, user="me", store=False, response_format={"type": "text"}, seed=-5
    )
    assert passed.choices[0].message.content == create().choices[0].message.content
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]}
    ]
    whole = [{"role": "system", "content": "Be kind."}]
    assert create(messages=[*parts, *ASK]).choices == create(messages=[*whole, *ASK]).choices


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": "tiny"}', b"[" * 50000, b'"\\ud800"']
)
def test_a_body_that_is_no_request(server, body):
    status, _, content = post(server, body)
    assert status == 400
    assert json.loads(content)["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_long_or_of_another_kind(server):
    status, _, content = post(server, b" " * (app.MAX_BODY + 1))
    assert (status, json.loads(content)["error"]["type"]) == (413, "invalid_request_error")
    # what a form on a page elsewhere may send without being asked
    assert post(server, {"model": "tiny", "messages": ASK}, **{"content-type": "text/plain"})[0] == 415
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("GET", "/v1/nothing")
    assert json.loads(connection.getresponse().read())["error"]["code"] == "not_found"


def test_a_full_queue_says_when_to_come_again(server, monkeypatch):
    monkeypatch.setattr(engine, "WAITING", 0)
    status, headers, content = post(server, {"model": "tiny", "messages": ASK})
    assert (status, json.loads(content)["error"]["type"]) == (503, "server_error")
    assert int(headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_answer(server, monkeypatch, stream):
    began, jobs = threading.Event(), []
    whole = engine.Engine._ends

    def ends(self, job, logits):
        jobs.append(job)
        began.set()
        time.sleep(0.02)  # so that it is still being written
        return whole(self, job, logits)

    monkeypatch.setattr(engine.Engine, "_ends", ends)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    asked = json.dumps({"model": "tiny", "messages": ASK, "max_tokens": 450, "stream": stream})
    connection.request("POST", "/v1/chat/completions", asked, {"content-type": "application/json"})
    assert began.wait(60)
    connection.close()
    deadline = time.monotonic() + 60
    while not jobs[0].cancelled and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(jobs[0].tokens) < 450


def test_a_failure_is_told_in_both_ways(create, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("a secret")

    monkeypatch.setattr("xtune.serve.engine.choose", fail)
    with pytest.raises(openai.InternalServerError) as told:
        create()
    assert "secret" not in str(told.value)
    with pytest.raises(openai.APIError, match="server failed"):
        list(create(stream=True))


def test_a_key_is_asked_for_and_other_hosts_are_refused(tiny_model):
    with running([f"tiny={tiny_model}"], api_key="sesame") as server:
        for key, allowed in (("sesame", True), ("other", False), ("sésame", False)):
            status, _, _ = post(
                server,
                {"model": "tiny", "messages": ASK, "max_tokens": 1},
                authorization=f"Bearer {key}".encode().decode("latin-1"),
            )
            assert status == (200 if allowed else 401)
        assert post(server, {})[0] == 401
    with running([f"tiny={tiny_model}"], only_loopback=True) as server:
        asked = {"model": "tiny", "messages": ASK, "max_tokens": 1}
        assert post(server, asked)[0] == 200
        assert post(server, asked, host="rebound.example")[0] == 400
