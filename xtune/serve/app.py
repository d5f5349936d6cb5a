"""The web application: OpenAI's chat-completions API over the served models, and the page to chat in."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from xtune.errors import UserError
from xtune.model.load import is_out_of_memory
from xtune.serve.choice import Choice
from xtune.serve.engine import Busy
from xtune.serve.models import Served
from xtune.serve.request import ChatRequest, RequestError, read_request

MAX_BODY = 8 << 20
"""Bytes of a request: several times what the longest context takes."""
PAGE = Path(__file__).with_name("page.html")
# The page has all it needs in itself; a browser that is told so lets nothing leave.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}
_LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]


def make_app(
    served: Mapping[str, Served], api_key: str | None = None, only_loopback: bool = False
) -> Starlette:
    """The ASGI application.

    api_key         what requests need as their bearer token; None: nothing
    only_loopback   refuse requests to other host names, which a page elsewhere could have a browser send here
    """
    encoding = CapacityLimiter(1)  # tokenizers and the cache of templates are not made for many threads
    created = int(time.time())

    async def models(request: Request) -> Response:
        _authorise(request, api_key)
        names = request.path_params.get("name")
        listed = [
            {"id": name, "object": "model", "created": created, "owned_by": "xtune"}
            for name in served
            if names in (None, name)
        ]
        if names is None:
            return JSONResponse({"object": "list", "data": listed})
        _find(served, names)
        return JSONResponse(listed[0])

    async def completions(request: Request) -> Response:
        _authorise(request, api_key)
        asked = read_request(await _body(request))
        model = _find(served, asked.model)
        if asked.shown_tools and model.template.tool_calls is None:
            raise RequestError(
                f"The chat format of {model.name} ({model.template.name}) has no tools.", param="tools"
            )
        prompt = await to_thread.run_sync(lambda: _prompt(model, asked), limiter=encoding)
        room = model.context - len(prompt)
        if room < 1:
            raise RequestError(
                f"This model's maximum context length is {model.context} tokens, and the messages have {len(prompt)}.",
                param="messages",
                code="context_length_exceeded",
            )
        choices = [Choice(model, asked, prompt, sampling) for sampling in asked.samplings(room)]
        try:
            model.engine.submit(*(choice.job for choice in choices))
        except Busy:
            raise RequestError(
                "The server is busy. Try again later.", code="server_busy", status=503
            ) from None
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.name}
        if asked.stream:
            chunks = _stream(head, choices, asked)
            return StreamingResponse(
                chunks, media_type="text/event-stream", headers={"cache-control": "no-store"}
            )
        return await _unless_gone(request, choices, lambda: _whole(head, choices))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def page(_: Request) -> Response:
        return FileResponse(PAGE, headers=_PAGE_HEADERS)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", models),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK)] if only_loopback else [],
        exception_handlers={
            RequestError: _refused,
            404: lambda _, __: _error("There is no such path.", None, "not_found", 404),
            405: lambda _, __: _error("This path takes another method.", None, "method_not_allowed", 405),
            500: lambda _, error: _error(_what_failed(error), None, None, 500),
        },
    )


def _authorise(request: Request, api_key: str | None) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if api_key and not hmac.compare_digest(given.encode(), api_key.encode()):
        raise RequestError("Incorrect API key provided.", code="invalid_api_key", status=401)


def _find(served: Mapping[str, Served], name: str) -> Served:
    if name not in served:
        message = f"The model {name!r} does not exist. Served are: {', '.join(served)}."
        raise RequestError(message, param="model", code="model_not_found", status=404)
    return served[name]


async def _body(request: Request) -> bytes:
    """What was sent. Raises RequestError where it is too long, or a page elsewhere may have had it sent: a browser asks
    before it sends JSON to another site, and is told no."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise RequestError("The Content-Type has to be application/json.", status=415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise RequestError(f"The request is longer than {MAX_BODY >> 20} MiB.", status=413)
    return bytes(body)


def _prompt(model: Served, asked: ChatRequest):
    try:
        return model.encode(asked.conversation(), asked.shown_tools, **asked.chat_template_kwargs)
    except UserError as error:
        raise RequestError(error.what, param="messages") from None


async def _whole(head: dict[str, Any], choices: list[Choice]) -> Response:
    listed = []
    for index, choice in enumerate(choices):
        answer, reason = await choice.whole()
        message = {"role": "assistant", "content": answer.content, "refusal": None}
        if answer.reasoning is not None:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message |= {"content": answer.content or None, "tool_calls": choice.calls(answer)}
        listed.append({"index": index, "message": message, "logprobs": None, "finish_reason": reason})
    return JSONResponse({**head, "object": "chat.completion", "choices": listed, "usage": _usage(choices)})


async def _stream(head: dict[str, Any], choices: list[Choice], asked: ChatRequest) -> AsyncIterator[str]:
    """Server-sent events: pieces of all choices as they come."""
    head = {**head, "object": "chat.completion.chunk"}
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    rest = {"usage": None} if with_usage else {}
    pieces: asyncio.Queue = asyncio.Queue()

    async def collect(index: int, choice: Choice) -> None:
        try:
            async for delta, reason in choice.pieces():
                await pieces.put((index, delta, reason))
        except Exception as error:
            await pieces.put((index, error, None))

    tasks = [asyncio.create_task(collect(*each)) for each in enumerate(choices)]
    try:
        left = len(choices)
        while left:
            index, delta, reason = await pieces.get()
            if isinstance(delta, Exception):
                yield _event({"error": _described(_what_failed(delta), None, None, 500)})
                return
            left -= reason is not None
            one = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield _event({**head, "choices": [one], **rest})
        if with_usage:
            yield _event({**head, "choices": [], "usage": _usage(choices)})
        yield "data: [DONE]\n\n"
    finally:  # also where the client has gone
        for task, choice in zip(tasks, choices, strict=True):
            task.cancel()
            choice.cancel()


async def _unless_gone(request: Request, choices: list[Choice], answer: Callable) -> Response:
    """The answer, given up as soon as nobody waits for it any more."""

    async def gone() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.5)

    tasks = [asyncio.ensure_future(answer()), asyncio.create_task(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception as error:  # told here, since the server closes a connection on which one gets through
        return _error(_what_failed(error), None, None, 500)
    finally:
        for task in tasks:
            task.cancel()
        for choice in choices:
            choice.cancel()


def _usage(choices: list[Choice]) -> dict[str, int]:
    prompt, written = len(choices[0].job.prompt), sum(len(choice.job.tokens) for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _refused(_: Request, error: RequestError) -> Response:
    return _error(error.message, error.param, error.code, error.status)


def _error(message: str, param: str | None, code: str | None, status: int) -> Response:
    headers = {"retry-after": "5"} if status == 503 else {}
    return JSONResponse({"error": _described(message, param, code, status)}, status, headers)


def _described(message: str, param: str | None, code: str | None, status: int) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def _what_failed(error: Exception) -> str:
    if is_out_of_memory(error):
        return "Memory ran out. Ask for less at once."
    return "The server failed. Its messages tell why."
