"""What is rendered by pattern is what Jinja renders, in every template; what looks at the words goes to Jinja."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.data.encoding.pieces import Fixed, Piece, cut_pieces
from xtune.data.encoding.shapes import Shapes
from xtune.errors import DataError
from xtune.messages import Message, Sample
from xtune.templates.render import render
from xtune.templates.template import find_template, template_from_source, template_names

WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "  two  spaces ",
        "\n",
        "<|im_end|>",
        "a<think>b</think>c",
        "</s>[INST]",
        "\ue0000t \"<&'",
        "{{ x }}",
        "é\u0130",
    ]
)


def talks(words):
    turn = st.tuples(words, words, st.booleans(), st.none() | words)
    return st.tuples(st.none() | words, st.lists(turn, min_size=1, max_size=3)).map(_talk)


def _talk(drawn):
    system, turns = drawn
    messages = [Message("system", system)] if system is not None else []
    for question, answer, loss, reasoning in turns:
        messages.append(Message("user", question))
        messages.append(Message("assistant", answer, loss=loss, reasoning=reasoning))
    return Sample(tuple(messages))


def cutter(template):
    def cut(sample):
        return cut_pieces(render(sample.messages, template=template, tools=sample.tools), set(), set())

    return cut


def shapes_of(template):
    """Shapes that keep the fixed pieces, so that they can be compared."""
    fixed: dict[int, list[Piece]] = {}

    def fix(pieces):
        number = len(fixed)
        fixed[number] = pieces
        return Fixed(number.to_bytes(4, "little"), b"")

    shapes = Shapes(cutter(template), fix)

    def pieces(sample):
        parts = shapes.pieces(sample)
        return [
            piece
            for part in parts
            for piece in (fixed[int.from_bytes(part.ids, "little")] if isinstance(part, Fixed) else [part])
        ]

    return shapes, pieces


@pytest.mark.parametrize("name", template_names())
def test_patterns_give_what_jinja_gives(name):
    template = find_template(name)
    cut, (_, pieces) = cutter(template), shapes_of(template)

    @settings(max_examples=50, deadline=None)
    @given(talks(WORDS))
    def check(sample):
        try:
            expected = cut(sample)
        except DataError as error:
            with pytest.raises(DataError, match=error.what[:20].replace("(", r"\(")):
                pieces(sample)
            return
        assert pieces(sample) == expected

    check()


def test_most_templates_are_rendered_by_pattern():
    plain = Sample((Message("user", "q"), Message("assistant", "a")))
    by_pattern = set()
    for name in template_names():
        shapes, pieces = shapes_of(find_template(name))
        pieces(plain)
        if any(pattern for pattern in shapes._patterns.values()):
            by_pattern.add(name)
    assert {"smollm2", "llama3", "internlm2", "qwen2_5", "chatml"} <= by_pattern


LOOKS = [
    "{% if 'x' in m.content %}X{% endif %}{{ m.content }}",
    "{{ m.content | upper }}",
    "{{ m.content | replace('a', 'b') }}",
    "{{ m.content | tojson }}",
    "{{ m.content | escape }}",
    "{{ m.content | length }}{{ m.content }}",
    "{{ m.content[0] }}",
    "{% if m.content %}{{ m.content }}{% endif %}",
    "{{ m.content.split('</x>')[-1] }}",
    "{{ m.content | indent }}",
    "{{ m.content | title }}",
    "{% for c in m.content %}{{ c }}.{% endfor %}",
    "{{ '%s' | format(m.content) | lower }}",
    "{{ m.content | trim('a') }}",
    "{{ (m.content ~ '!') | upper }}",
    "{{ ('!' ~ m.content) | trim }}",
    "{{ ('' ~ m.content) | trim }}",
    "{{ ('' ~ m.content).strip('\\n') }}",
    "{{ ('' ~ m.content).rstrip(' ') }}",
    "{{ ('' ~ m.content).lstrip() }}",
    "{{ m.content | wordcount }}",
    "{{ m.content == 'x' }}",
]


@pytest.mark.parametrize("body", LOOKS)
def test_a_template_that_looks_at_the_words(body):
    source = "{% for m in messages %}<|a|>{% generation %}" + body + "<|b|>{% endgeneration %}{% endfor %}"
    template = template_from_source("looks.jinja", source)
    cut, (_, pieces) = cutter(template), shapes_of(template)
    for words in ("x", "axa", "a\nb 'c' \"<", "</x>y", " x ", "\n\tx \n", "AB Cd"):
        sample = Sample((Message("user", words), Message("assistant", words + "!")))
        assert pieces(sample) == cut(sample)
