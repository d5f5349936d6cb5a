"""`xtune serve` and `xtune web` as processes, with the real small model."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import openai
import pytest
from click.testing import CliRunner

from xtune.cli.main import cli
from xtune.errors import UserError


@contextmanager
def process(*args, **environment):
    """A server that is up: its process and address."""
    command = [sys.executable, "-m", "xtune", *map(str, args), "--port", "0"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as started:
        try:
            said = ""
            for line in started.stderr:
                said += line
                if found := re.search(r"serving .* at (http://\S+)/v1", line):
                    yield started, found[1], said
                    return
            pytest.fail(f"it does not serve: {said}")
        finally:
            started.kill()


def said(*args) -> str:
    """What a command that cannot work says."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_mistakes_show_before_a_model_is_loaded(tmp_path, tiny_model):
    assert "neither a run" in said("serve", tmp_path)
    assert "would be called" in said("serve", tiny_model, tiny_model)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "in use" in said("serve", tiny_model, "--port", port)
    assert "no host" in said("serve", tiny_model, "--host", "no.such.host.invalid")


def test_adapters_have_to_fit(tiny_model, adapter, make_adapter, tmp_path):
    from xtune.serve.models import load_models, name_targets

    own = make_adapter(tiny_model, tmp_path / "own")
    other = make_adapter(tiny_model, tmp_path / "other")
    (other / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(UserError, match="does not fit"):
        load_models(name_targets([str(own), str(other)]), lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_server_answers_and_lets_answers_end_when_it_is_stopped(adapter, sent, code):
    with process("serve", "base=smollm2", f"tuned={adapter}", XTUNE_API_KEY="sesame") as (server, url, _):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="none").models.list()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0)
        assert [model.id for model in client.models.list()] == ["base", "tuned"]
        asked = {
            "messages": [{"role": "user", "content": "Who are you?"}],
            "temperature": 0,
            "max_tokens": 6,
        }
        answers = [client.chat.completions.create(model=name, **asked) for name in ("base", "tuned")]
        base, tuned = (answer.choices[0].message.content for answer in answers)
        assert base != tuned
        stream = client.chat.completions.create(model="tuned", stream=True, **asked)
        text = next(iter(stream)).choices[0].delta.content
        server.send_signal(sent)
        text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == tuned
        assert server.wait(60) == code
        assert "Traceback" not in server.stderr.read()


@pytest.mark.slow
def test_other_machines_without_a_key_are_warned_of(tiny_model):
    with process("serve", tiny_model, "--host", "0.0.0.0") as (_, _, told):
        assert "warning" in told


@pytest.mark.slow
def test_the_page_in_a_browser(adapter, tmp_path):
    """Chat, compare, stop, clear; and nothing that the browser asks for is elsewhere."""
    import json

    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    for flag in (
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path}",
        "window-size=1100,680",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.ChromeService(
        shutil.which("chromedriver")
    )  # else Selenium looks for one on the network
    with process("web", adapter) as (_, url, _), webdriver.Chrome(options, driver) as browser:
        wait = WebDriverWait(browser, 120)
        find = lambda selector: browser.find_elements(By.CSS_SELECTOR, selector)  # noqa: E731

        def say(text):
            find("#prompt")[0].send_keys(text + "\n")

        browser.get(url)
        wait.until(lambda _: len(find("#model option")) == 2)
        assert [option.text for option in find("#model option")] == [adapter.name, "smollm2"]
        find("#compare")[0].click()
        wait.until(lambda _: len(find("section")) == 2)
        say("Who are you?")
        wait.until(lambda _: all(len(words.text.split()) > 5 for words in find(".answer > span")))
        find("#stop")[0].click()
        wait.until(lambda _: len(find(".told")) == 2)
        tuned, base = (words.text for words in find(".answer > span:not(.told)"))
        assert tuned != base
        find("#clear")[0].click()
        wait.until(lambda _: not find(".user"))
        find("#compare")[0].click()
        wait.until(lambda _: len(find("section")) == 1)
        find("#system")[0].send_keys("You write very long stories.")
        say("Tell me a very long story of <b>a cat</b>, with ten chapters.")
        wait.until(lambda _: find(".answer > span")[0].text)
        find("#stop")[0].click()
        wait.until(lambda _: [element.text for element in find(".told")] == ["stopped"])
        assert find(".user")[0].text == "Tell me a very long story of <b>a cat</b>, with ten chapters."
        say("And now?")  # the conversation goes on
        wait.until(lambda _: len(find(".answer > span")) >= 2 and find(".answer > span")[-1].text)
        find("#stop")[0].click()
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = {
            each["params"]["request"]["url"]
            for each in requests
            if each["method"] == "Network.requestWillBeSent"
        }
        assert f"{url}/v1/chat/completions" in asked
        network = [address for address in asked if address.startswith(("http", "ws"))]  # chrome: is its own
        assert all(address.startswith(f"{url}/") for address in network)
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
