"""A directory from which Ollama makes a model: the GGUF file, and a Modelfile with the chat format in Go's language."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from xtune.convert.card import CARD, write_card
from xtune.convert.gguf import Gguf, write_gguf
from xtune.convert.gguf_tokenizer import for_llama_cpp
from xtune.convert.gguf_weights import Type
from xtune.convert.go_template import find_frame, write_go
from xtune.convert.native import native_model
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.json_file import read_json_if_there
from xtune.run.target import Target, find_target
from xtune.terminal import quiet_libraries

_NO_TEMPLATE = (
    "# There is no TEMPLATE: Go's language cannot say this chat format. Ask by /api/generate, raw.\n"
)


@dataclass(frozen=True)
class ForOllama:
    """A directory for Ollama.

    path      its place
    gguf      the file in it
    template  whether its Modelfile has the chat format
    command   what makes a model of it
    """

    path: Path
    gguf: Gguf
    template: bool
    command: str


def convert_ollama(
    model: str | Path, out: str | Path, type: Type = "q8_0", *, base: str | Path | None = None
) -> ForOllama:
    """Write a model (a directory, an adapter, a run) as GGUF with a Modelfile into the new directory `out`.

    type   of the weights, see convert_gguf
    base   the base of an adapter, where it is not where it was

    Raises UsageError for what llama.cpp cannot load.
    """
    quiet_libraries()
    out = Path(out).expanduser()
    with native_model(model, out, base=base) as directory, new_directory(out) as work:
        target = find_target(str(directory))
        gguf = write_gguf(directory, work / "model.gguf", type, name=out.name)
        template, text = modelfile(target, directory)
        (work / "Modelfile").write_text(text, encoding="utf-8")
        name = out.name.lower()
        use = f"```bash\nollama create {name} -f Modelfile\nollama run {name}\n```\n"
        write_card(work / CARD, target, use=use, library="gguf")
    command = shlex.join(["ollama", "create", name, "-f", str(out / "Modelfile")])
    return ForOllama(out, replace(gguf, path=out / "model.gguf"), template, command)


def modelfile(target: Target, directory: Path) -> tuple[bool, str]:
    """Whether there is a template, and the text of the Modelfile of a native model, whose file lies beside it."""
    tokenizer = load_tokenizer(directory)
    bos = tokenizer.bos_token or ""
    # Ollama puts that token before a text itself where the GGUF file says so.
    put_before = bos if bos and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id] else ""
    frame = find_frame(for_llama_cpp(target.template, tokenizer))
    lines = ["FROM ./model.gguf\n"]
    lines.append(f'TEMPLATE """{write_go(frame, without=put_before)}"""\n' if frame else _NO_TEMPLATE)
    known = tokenizer.get_vocab()
    lines += [f'PARAMETER stop "{token}"\n' for token in target.template.stop_tokens if token in known]
    generation = read_json_if_there(directory / "generation_config.json")
    for name in ("temperature", "top_p", "top_k"):
        if generation.get(name) is not None and generation.get("do_sample"):
            lines.append(f"PARAMETER {name} {generation[name]}\n")
    return frame is not None, "".join(lines)
