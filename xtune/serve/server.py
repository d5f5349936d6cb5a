"""Running a server until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Sequence

from xtune.errors import ResourceError, UsageError
from xtune.serve.models import load_models, name_targets, try_out, with_bases
from xtune.terminal import messages

_GRACE = 10
"""Seconds that answers under way get to end, once the server is told to stop."""


def serve(
    targets: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    bits: int | None = None,
    compare: str | None = None,
    page: bool = False,
) -> None:
    """Load the targets, PATH or NAME=PATH, and answer at host:port until SIGTERM or Ctrl-C.

    api_key   what requests need; None: nothing
    bits      of the weights: 4, 8 or 16; None: as each adapter was trained
    page      for a browser: bases of adapters are served too, or `compare`, and the page is shown

    Raises UsageError where a target is none or the address cannot be had.
    """
    try:
        import uvicorn

        from xtune.serve.app import make_app
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The package {error.name} is not installed.",
            where="xtune serve",
            fix="pip install 'xtune[serve]'",
        ) from None

    named = name_targets([*targets, *([compare] if compare else [])])
    if page and not compare:
        named = with_bases(named)
    listening = _bind(host, port)  # before the model is loaded, so that a mistake shows at once
    console = messages()

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    local = listening.getsockname()[0] in ("127.0.0.1", "::1")
    if not local and not api_key:
        say(f"warning: anyone who reaches {host} can use the model; set a key with --api-key.")
    served = load_models(named, say, bits=bits)
    for model in served.values():
        try_out(model)
        if model.engine.alone:
            say(f"{model.name}: its family keeps more than keys and values: one answer after another.")
    app = make_app(served, api_key, only_loopback=local and not api_key)
    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=_GRACE
    )
    url = f"http://{_written(listening)}"
    say(f"serving {', '.join(served)} at {url}/v1" + ("" if page else f" (chat in a browser: {url})"))
    if page:
        url += "/#compare" if compare else ""
        _show(url)
        say(f"chat at {url}")
    say("Ctrl-C ends.")
    # uvicorn raises the signal again when it has ended; SIGINT is Python's KeyboardInterrupt
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        for engine in {id(model.engine): model.engine for model in served.values()}.values():
            engine.stop()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # bound alone, another could still take it; who connects now waits for the model
    except socket.gaierror:
        raise UsageError(f"There is no host {host}.", where="--host", fix="Use 127.0.0.1.") from None
    except OSError as error:
        raise ResourceError(
            f"The address {host}:{port} cannot be had: {os.strerror(error.errno)}.",
            where="--port",
            fix=f"Use another: --port {port + 1 if 1024 <= port < 65535 else 8000}",
        ) from None
    return listening


def _written(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _show(url: str) -> None:
    """Open the page, where there is somebody to see it and a screen."""
    screen = (
        sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if screen and sys.stderr.isatty():
        webbrowser.open(url)
