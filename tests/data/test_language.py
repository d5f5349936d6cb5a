"""Languages are told of short texts, offline, and where there is none to tell, that is said."""

import subprocess
import sys

import pytest

from xtune.data.language import detect_language


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The weather is nice today."),
        ("de", "Wie lerne ich kochen?"),
        ("fr", "Comment apprendre à cuisiner ?"),
        ("es", "El tiempo está muy bueno hoy."),
        ("ru", "Сегодня хорошая погода."),
        ("vi", "Hôm nay thời tiết đẹp."),
        ("ar", "كيف أتعلم الطبخ؟"),
        ("th", "วันนี้อากาศดี"),
        ("ja", "今日は天気がいいです。"),
        ("ko", "오늘 날씨가 좋네요."),
        ("zh", "怎么学做饭?"),
        ("zh", "點解唔去飲茶?"),  # Cantonese, in traditional characters
        ("zh", "用Python写一个函数 def add(a, b)，返回两个数的和。"),
        ("en", "Write a Python function to print n.\ndef f(n):\n    for i in range(1, n):\n        print(i)"),
        ("en", "What does 你好 mean in English, and how is it pronounced?"),
    ],
)
def test_language_is_told(language, text):
    assert detect_language(text) == language


@pytest.mark.parametrize("text", ["", "  \n", "12345", "3 + 4 = 7", "🙂 !!", "___"])
def test_text_without_letters_has_none(text):
    assert detect_language(text) == "und"


def test_only_the_start_counts():
    assert detect_language("这是一句中文。" * 100 + "This is English. " * 1000) == "zh"


def test_model_is_in_the_wheel():
    # A process of its own: here the model may be loaded already.
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('the network was used')\n"
        "socket.socket = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from xtune.data.language import detect_language\n"
        "print(detect_language('Wir lernen heute kochen.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "de", done.stderr
