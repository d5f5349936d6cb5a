"""Python that a model wrote: what it may, in real processes, and what it may not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from xtune.chat.python_tool import run_python

ISOLATED = subprocess.run(["unshare", "-rnmpf", "true"], capture_output=True).returncode == 0
"""Whether this machine lets users have namespaces, as most do."""


def test_output_and_last_value():
    assert run_python("print('Grüße')\nx = 3\nx * 2") == "Grüße\n6"
    assert run_python("x = 1") == "(It printed nothing.)"
    assert run_python("import sys; print('a', file=sys.stderr); sys.exit(3)") == "a\nSystemExit: 3"


def test_errors_are_told_as_of_the_program():
    said = run_python("def f():\n    return 1 / 0\nf()")
    assert "line 2, in f" in said
    assert said.endswith("ZeroDivisionError: division by zero")
    assert "python_child" not in said
    assert run_python("x = (").endswith("SyntaxError: '(' was never closed")


def test_limit_on_time_ends_all_that_it_started():
    began = time.monotonic()
    said = run_python(
        "import subprocess\nsubprocess.Popen(['sleep', '31.4159'])\nwhile True: pass", seconds=1
    )
    assert "Stopped after 1 seconds." in said or "was ended" in said or "not allowed" in said
    assert time.monotonic() - began < 20
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if "31.4159" in (each.info["cmdline"] or [])
    ]


def test_limit_on_memory():
    assert "MemoryError" in run_python("x = [0] * 10**9", memory=1 << 28)


def test_limit_on_output():
    assert len(run_python("while True: print('x' * 1000)", seconds=5)) < 100_000


@pytest.mark.parametrize(
    "connect", ["s.connect(address)", "import asyncio; asyncio.run(asyncio.open_connection(*address))"]
)
def test_no_network(connect):
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; s = socket.socket(); address = {server.getsockname()}\n{connect}"
        said = run_python(code)
        assert "not allowed" in said or "unreachable" in said
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_working_directory_is_empty_and_gone_afterwards():
    said = run_python(
        "import os; open('a', 'w').write('x'); print(os.getcwd(), os.listdir(), open('a').read())"
    )
    folder, rest = said.split(" ", 1)
    assert rest == "['a'] x"
    assert not Path(folder).exists()


def test_environment_is_not_the_users(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret")
    assert "secret" not in run_python("import os; dict(os.environ)")


@pytest.mark.skipif(not ISOLATED, reason="the kernel lets no user have namespaces")
def test_files_cannot_be_written_nor_the_namespace_undone(tmp_path):
    file = tmp_path / "mine"
    file.write_text("before")
    undo = (
        "import ctypes; libc = ctypes.CDLL(None); clear = (ctypes.c_uint64 * 4)(0, 1)\n"
        "print(libc.syscall(442, -100, b'/', 0x8000, clear, 32), libc.syscall(442, -100, b'/', 0, clear, 32))\n"
        f"print(libc.umount2({str(tmp_path).encode()!r}, 2))\n"
    )
    said = run_python(f"{undo}import os\ntry: os.remove({str(file)!r})\nfinally: open({str(file)!r}, 'w')")
    assert said.startswith("-1 -1\n-1\n")
    assert "Read-only file system" in said
    assert file.read_text() == "before"


def test_ends_with_the_chat(tmp_path):
    code = "from xtune.chat.python_tool import run_python; run_python('import time; time.sleep(27.18281)')"
    chat = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    children = []
    while not children and chat.poll() is None:
        children = psutil.Process(chat.pid).children(recursive=True)
        time.sleep(0.02)
    chat.kill()
    chat.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1]
