"""What a request may say, in OpenAI's words, and what becomes of it.

What would change the answer and is not done here is refused; what would not (user, metadata, store, a penalty of 0) is
passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from xtune.serve.sampling import Sampling

MAX_TOKENS = 4096
"""Of an answer for which the request sets no limit."""
MAX_CHOICES = 16


class RequestError(Exception):
    """A request that cannot be answered, in OpenAI's terms."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400):
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


def _text(value: Any) -> Any:
    """Content that comes in parts, as one text."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        raise ValueError("the model reads text only")
    return "".join(part["text"] for part in value)


class _Function(_Part):
    name: str
    arguments: str = "{}"


class _Call(_Part):
    id: str = ""
    function: _Function


class ChatMessage(_Part):
    """A message; `reasoning_content` is the thinking that an answer came with."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_text)] = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class _FunctionSchema(_Part):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(_Part):
    type: Literal["function"]
    function: _FunctionSchema


class _StreamOptions(_Part):
    include_usage: bool = False


class _Format(_Part):
    type: Literal["text"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _nothing(value: Any) -> Any:
    if value:
        raise ValueError("this server does not do that; leave it out")
    return None


_Refused = Annotated[None, BeforeValidator(_nothing)]
_Stop = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list), Field(max_length=16)]


class ChatRequest(_Part):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    stop: _Stop | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    response_format: _Format | None = None
    chat_template_kwargs: dict[str, Any] = {}
    frequency_penalty: _Refused = None
    presence_penalty: _Refused = None
    logit_bias: _Refused = None
    logprobs: _Refused = None
    top_logprobs: _Refused = None
    functions: _Refused = None

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is shown, in OpenAI's form."""
        if not self.tools or self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools]

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as chat templates expect them: text, and the name of the tool that a result is of."""
        called: dict[str, str] = {}
        messages = []
        for message in self.messages:
            role = "system" if message.role == "developer" else message.role
            plain = {"role": role, "content": message.content or ""}
            if message.tool_calls:
                called |= {call.id: call.function.name for call in message.tool_calls}
                plain["tool_calls"] = [call.model_dump() for call in message.tool_calls]
            if name := message.name or called.get(message.tool_call_id or ""):
                plain["name"] = name
            if message.reasoning_content is not None:
                plain["reasoning_content"] = message.reasoning_content
            messages.append(plain)
        return messages

    def samplings(self, room: int) -> list[Sampling]:
        """How each of the n answers is written, in at most `room` tokens."""
        wanted = self.max_completion_tokens or self.max_tokens or MAX_TOKENS
        return [
            Sampling(
                max_tokens=min(wanted, room),
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                # of any sign and size, which numpy takes no seed of
                seed=None if self.seed is None else (self.seed + number) % 2**64,
            )
            for number in range(self.n or 1)
        ]


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises RequestError that names the first field at fault."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{param or 'The body'}: {message}", param) from None
