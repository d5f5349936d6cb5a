"""The models of a server: each target under a name; targets on the same base share it in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.chat.generate import context, stop_ids
from xtune.chat.load import chat_bits, load_chat
from xtune.data.encoding.encode import encode
from xtune.errors import DataError, UsageError
from xtune.families.embedded import model_directory
from xtune.families.tokenizer import load_tokenizer
from xtune.json_file import read_json_if_there
from xtune.model.adapters import read_adapter
from xtune.run.target import Target, check_base, find_target
from xtune.templates.template import Template

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

    from xtune.serve.engine import Engine


@dataclass(frozen=True)
class Served:
    """One name that requests may ask for.

    adapter    its name in the engine's model; None: the model without any
    stop_ids   tokens that end an answer
    context    tokens that prompt and answer may have together
    """

    name: str
    engine: Engine
    tokenizer: PreTrainedTokenizerFast
    template: Template
    adapter: str | None
    stop_ids: frozenset[int]
    context: int

    def encode(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), **variables: Any
    ) -> np.ndarray:
        """The ids of a prompt, int32 [tokens]. Raises DataError or UsageError where the format cannot express it."""
        return encode(
            messages,
            tokenizer=self.tokenizer,
            template=self.template,
            tools=list(tools) or None,
            add_generation_prompt=True,
            **variables,
        ).input_ids


def name_targets(targets: Sequence[str]) -> dict[str, Target]:
    """What `PATH` or `NAME=PATH` of a command line are; without a name, the path's last part is it. UsageError."""
    named: dict[str, Target] = {}
    for text in targets:
        name, given, path = text.partition("=")
        if not given or "/" in name or Path(text).exists():  # a path with = in it
            name, path = "", text
        target = find_target(path)
        name = name or Path(path).expanduser().resolve().name
        if name in named:
            raise UsageError(
                f"Two models would be called {name}.", where=text, fix=f"Name one: another-name={path}"
            )
        named[name] = target
    return named


def load_models(targets: dict[str, Target], say: Callable[[str], None], **loading: Any) -> dict[str, Served]:
    """Load each base once, with all adapters on it, and start its engine.

    `say` is told what is loaded; `loading` are options of load_model. Raises UsageError where something does not fit.
    """
    bases: dict[tuple, dict[str, Target]] = {}
    for name, target in targets.items():
        bits = chat_bits(target, loading.get("bits"))
        key = (str(model_directory(target.base).resolve()), target.options, bits)
        bases.setdefault(key, {})[name] = target
    served: dict[str, Served] = {}
    for group in bases.values():
        say(f"loading {next(iter(group.values())).base} …")
        served |= _load(group, loading)
    return {name: served[name] for name in targets}


def _load(group: dict[str, Target], loading: dict[str, Any]) -> dict[str, Served]:
    """The models on one base."""
    from xtune.serve.engine import Engine

    # one with an adapter first: PEFT wraps the model with it, and takes further ones
    ordered = sorted(group, key=lambda name: group[name].adapter is None)
    first = group[ordered[0]]
    _check_together(group)
    model, tokenizer = load_chat(first, **loading)
    adapters: dict[str, str | None] = {ordered[0]: "default" if first.adapter else None}
    for number, name in enumerate(ordered[1:], 2):
        target = group[name]
        adapters[name] = None
        if target.adapter:
            check_base(target)
            adapters[name] = f"adapter_{number}"
            _add_adapter(model, target.adapter, adapters[name])
    model.eval()
    engine = Engine(model)
    served = {}
    for name, target in group.items():
        own = (
            tokenizer
            if target is first
            else load_tokenizer(target.tokenizer_path, family=target.options.family)
        )
        stops = frozenset(stop_ids(own, target.template))
        served[name] = Served(name, engine, own, target.template, adapters[name], stops, context(model))
    return served


def _check_together(group: dict[str, Target]) -> None:
    """Refuse adapters that change the base for others: those with rows of added tokens."""
    if len(group) < 2:
        return
    for name, target in group.items():
        config = read_json_if_there(target.adapter / "adapter_config.json") if target.adapter else {}
        if config.get("trainable_token_indices"):
            raise UsageError(
                f"{name} has added tokens, and cannot share its base with other models.",
                where=str(target.adapter),
                fix="Serve it by itself, on another --port.",
            )


def _add_adapter(model, directory: Path, name: str) -> None:
    tensors = read_adapter(directory)  # says what is wrong with the file
    try:
        found = model.load_adapter(str(directory), adapter_name=name, is_trainable=False)
        missing = [key for key in found.missing_keys if f".{name}." in key]
        wrong = [*missing, *found.unexpected_keys] or ([] if tensors else ["it is empty"])
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        wrong = str(error).splitlines()[:1]
    if wrong:
        raise UsageError(
            f"The adapter does not fit the base: {wrong[0]}",
            where=str(directory),
            fix="Name the run that it came from, or its base model.",
        )


def with_bases(targets: dict[str, Target]) -> dict[str, Target]:
    """The targets, and behind them the base of each adapter, which costs no memory, to compare with."""
    everything = dict(targets)
    for target in targets.values():
        if target.adapter and not any(
            other.adapter is None and other.base == target.base for other in everything.values()
        ):
            name = Path(target.base).name
            everything[f"{name} (base)" if name in everything else name] = replace(
                find_target(target.base), bits=target.bits
            )
    return everything


def try_out(served: Served) -> None:
    """Write one token, so that what does not fit together shows before the first request. Raises UserError."""
    from threading import Event

    from xtune.serve.engine import Job
    from xtune.serve.sampling import Sampling

    try:
        prompt = served.encode([{"role": "user", "content": "Hi"}])
    except DataError as error:
        raise UsageError(f"The template cannot say Hi: {error.what}", where=served.template.name) from None
    ended, outcome = Event(), []

    def end(result: str | Exception) -> None:
        outcome.append(result)
        ended.set()

    served.engine.submit(
        Job(prompt, Sampling(1, temperature=0), served.stop_ids, lambda _: False, end, served.adapter)
    )
    ended.wait()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
