"""A server on a real port, in a thread."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest


@contextmanager
def running(targets, api_key=None, only_loopback=False):
    """A server of these targets: `url`, `served` (the models by name)."""
    import uvicorn

    from xtune.serve.app import make_app
    from xtune.serve.models import load_models, name_targets
    from xtune.serve.server import _bind

    served = load_models(name_targets(targets), lambda _: None)
    listening = _bind("127.0.0.1", 0)
    app = make_app(served, api_key, only_loopback)
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    host, port = listening.getsockname()
    try:
        yield SimpleNamespace(url=f"http://{host}:{port}", served=served)
    finally:
        server.should_exit = True
        thread.join()
        for model in served.values():
            model.engine.stop()


@pytest.fixture(scope="session")
def tool_model(tiny_model, tmp_path_factory):
    """The tiny model, with a chat format that has tools."""
    directory = tmp_path_factory.mktemp("with") / "tools"
    shutil.copytree(tiny_model, directory)
    (directory / "xtune.json").write_text(json.dumps({"template": "qwen2_5"}))
    return directory


@pytest.fixture
def scripted(monkeypatch, tokenizer):
    """scripted(text, ...) lets the model write these, one an answer, and the last again and again."""

    def script(*texts):
        stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = [[*tokenizer(text, add_special_tokens=False).input_ids, stop] for text in texts]
        left = {}  # by the random numbers of an answer, which are its own

        def choose(logits, sampling, random):
            if random not in left:
                left[random] = iter(ids[min(len(left), len(ids) - 1)])
            return next(left[random])

        monkeypatch.setattr("xtune.serve.engine.choose", choose)

    return script
