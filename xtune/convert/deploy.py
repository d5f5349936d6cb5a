"""A directory for a server, vLLM or LMDeploy, and the command that serves it.

Options are those of vLLM 0.33.0 and LMDeploy 0.18.0. Both take the type of the weights, and the tokens that end an
answer, from the files in the directory.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Literal

from xtune.convert.card import CARD, write_card
from xtune.convert.disk import check_place, disk_errors
from xtune.convert.layout import add_older_names
from xtune.convert.native import generator, weight_files, write_native
from xtune.convert.standalone import write_companions
from xtune.convert.weights import size_on_disk
from xtune.errors import UsageError
from xtune.families import read_config, read_layout
from xtune.families.embedded import model_directory
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.run.target import find_target
from xtune.terminal import quiet_libraries

Server = Literal["vllm", "lmdeploy"]

# By the way in which a template writes calls, the server's parser that reads them.
_TOOL_PARSERS = {
    "vllm": {"hermes": "hermes", "internlm2": "internlm", "llama3_1": "llama3_json"},
    "lmdeploy": {"hermes": "qwen", "internlm2": "internlm", "llama3_1": "llama3"},
}


def convert_for_server(
    model: str | Path, out: str | Path, server: Server, *, base: str | Path | None = None
) -> str:
    """Write a model (a directory, an adapter, a run) into the new directory `out`, in transformers' layout, and return
    the command that serves it, which is in its README.md too.

    base   the base of an adapter, where it is not where it was

    Raises UsageError for what the server cannot load.
    """
    quiet_libraries()
    out = Path(out).expanduser()
    target = generator(model, base=base)
    source = model_directory(target.base)
    _check(source, server)
    if target.adapter is None and read_layout(source, target.options) is None:
        files = weight_files(source)
        check_place(out, size_on_disk(source))
        with disk_errors(out), new_directory(out) as work:
            for file in files:
                shutil.copyfile(file, work / file.name)
            for name in ("config.json", *(file.name for file in source.glob("*.index.json"))):
                shutil.copyfile(source / name, work / name)
            add_older_names(work / "config.json")
            write_companions(target, load_tokenizer(source), work, native=True)
    else:
        write_native(model, out, base=base)
    command = serve_command(out, server)
    shown = command.replace(str(out), "path/to/this/directory")
    use = (
        f"```bash\n{shown}\n```\n\nIt answers as OpenAI's API does: `{out.name}` is the model's name there.\n"
    )
    write_card(out / CARD, find_target(str(out)), use=use)
    return command


def serve_command(directory: Path, server: Server) -> str:
    """The command by which a server serves a directory in transformers' layout."""
    tool_calls = find_target(str(directory)).template.tool_calls
    parser = _TOOL_PARSERS[server].get(tool_calls or "")
    length = str(read_config(directory)["max_position_embeddings"])
    if server == "vllm":
        words = ["vllm", "serve", str(directory), "--served-model-name", directory.name]
        words += ["--max-model-len", length, "--chat-template", str(directory / "chat_template.jinja")]
        words += ["--enable-auto-tool-choice", "--tool-call-parser", parser] if parser else []
    else:
        words = ["lmdeploy", "serve", "api_server", str(directory), "--model-name", directory.name]
        words += ["--session-len", length]
        words += ["--tool-call-parser", parser] if parser else []
    return shlex.join(words)


def _check(source: Path, server: Server) -> None:
    family = read_config(source).get("model_type")
    if server == "lmdeploy" and family in ("glm", "chatglm"):
        raise UsageError(
            "LMDeploy has no class for ChatGLM in transformers' layout; it has one for that of its publisher.",
            where=str(source),
            fix="Give it what xtune convert merge, or export --layout original, makes: "
            "lmdeploy serve api_server DIR --trust-remote-code.",
        )
