"""What is odd about words: found where it is there, and not in ordinary text of any language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.check_text import check_text
from xtune.data.findings import Findings, Reject, default_actions
from xtune.messages import Message
from xtune.templates.catalog import TEMPLATES

MOJIBAKE = "characters lost in an earlier conversion (mojibake)"


def notes(words):
    found = Findings()
    messages = (Message("user", words),)
    assert check_text(messages, found) is messages
    assert not found.repairs
    return list(found.notes)


def repaired(messages, **actions):
    found = Findings({**default_actions(), **actions})
    return check_text(messages, found), list(found.repairs)


@pytest.mark.parametrize(
    ("space", "instead"),
    [
        ("\xa0", " "),
        ("\u202f", " "),
        ("\u200b", ""),
        ("\ufeff", ""),
        ("\x85", "\n"),
        ("\u2028", "\n"),
        ("\u2029", "\n"),
    ],
)
def test_odd_spaces(space, instead):
    words = f"one{space}two"
    reason = f"odd space U+{ord(space):04X}"
    assert notes(words) == [reason]
    said = Message("assistant", words, reasoning=words)
    assert repaired((said,), odd_space="repair") == (
        (Message("assistant", f"one{instead}two", reasoning=f"one{instead}two"),),
        [reason],
    )
    with pytest.raises(Reject) as caught:
        repaired((said,), odd_space="drop")
    assert (caught.value.defect, caught.value.reason) == ("odd_space", reason)


def test_ordinary_spaces_are_not_odd():
    assert notes("one two\tthree\r\n\nfour\u3000five\u2009six") == []


@pytest.mark.parametrize("edge", [" ", "\n", "\t", "\u3000"])
def test_outer_space(edge):
    reason = "white space before or after what is said"
    for words in (f"{edge}a b", f"a b{edge}"):
        assert notes(words) == [reason]
        thought = Message("assistant", "a b", reasoning=words)
        assert repaired((thought,), outer_space="repair") == (
            (Message("assistant", "a b", reasoning="a b"),),
            [reason],
        )
    assert notes(f"a{edge}b") == []


ORDINARY = """
    façade|Ångström|São Paulo|naïve café|Âge|châteaux|Ça|déjà vu|ÇA ET LÀ|NÃO|IRMÃ|«IRMû|MANHÃ\xa0: MÃE|MANHÃ…|ROMÂNIA
    Fußgänger, Öl, Übergröße, Äpfel – „Straße“|GARÇON|l’été “déjà” «né» … à la|¿Qué? ¡Olé! España|Ñandú, SEÑOR
    Smørrebrød på Åland|ÅÄÖ åäöåäö|àâäéèêëîïôöùûüÿç|Þórður, Ðórarinn|œuvre, ŒUVRE|5 Å, 3 Å², ±1 Å
    90 °C, ½ £, 10 €, § 5, © 2024
    Tiếng Việt: ĐÃ NHẬN, đã được, ẤM ÁP, mã số|żółć, Łódź, śnieg|Příliš žluťoučký kůň|İstanbul'da çığ|Őrült hűség
    Γειά σου Κόσμε|Привет, как дела? Ёлка|你好，世界。“形”、『语言』……——模型|こんにちは、カタカナ。
    안녕하세요?|שלום|مرحبا|नमस्ते
    100% “quoted” – it’s fine…|á», é”, ä“, Á– (letras)|😀 👩‍💻
"""


@pytest.mark.parametrize(
    "words", [words.strip() for line in ORDINARY.split("\n") for words in line.split("|")]
)
def test_ordinary_text_is_not_called_mojibake(words):
    assert MOJIBAKE not in notes(words)


LETTERS = "aeioué èàâçêëîïôùûüñäößãõåøæÇÉÑÀÈÉÊ"
WORDS = st.text(st.sampled_from(LETTERS), min_size=1)


@given(st.text(st.sampled_from(LETTERS + "ÂÃ,.")))
def test_letters_of_europe_are_not_called_mojibake(words):
    assert MOJIBAKE not in notes(words)


@given(st.lists(WORDS), st.sampled_from("»«’“”…–—\xa0°²"))
def test_marks_after_letters_are_not_called_mojibake(words, mark):
    assert MOJIBAKE not in notes(mark.join(words))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize(
    "words",
    [
        *(
            "é",
            "café",
            "naïve",
            "São",
            "über",
            "Straße",
            "École",
            "voilà la",
            "noël",
            "ñandú",
            "Ångström",
            "CAFÉ",
        ),
        *("don’t", "a—b", "wait…", "“so”", "œuvre", "20 °C", "«oui»", "5 €"),
        *("形式", "你好，世界。", "こんにちは", "안녕", "Привет", "Γειά", "tiếng Việt", "için", "żółty"),
    ],
)
def test_utf8_read_as_another_encoding_is_mojibake(words, encoding):
    # Bytes that CP1252 has no character for are mostly read as those of Latin-1.
    lost = "".join(
        bytes([byte]).decode(encoding if encoding == "latin-1" or byte not in UNUSED else "latin-1")
        for byte in words.encode()
    )
    assert MOJIBAKE in notes(f"It says {lost} here.")


UNUSED = b"\x81\x8d\x8f\x90\x9d"


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=2))
def test_chinese_read_as_latin1_is_mojibake(words):
    assert MOJIBAKE not in notes(words)
    assert MOJIBAKE in notes(words.encode().decode("latin-1"))


def test_replacement_characters_and_controls_are_mojibake():
    for lost in ("na\ufffdve", "\x93quoted\x94"):
        assert MOJIBAKE in notes(lost)
    with pytest.raises(Reject) as caught:
        repaired((Message("user", "q"), Message("assistant", "a", reasoning="\ufffd")), mojibake="drop")
    assert caught.value.defect == "mojibake"


# What has no brackets is a word like any other.
TOKENS = {
    token
    for fields in TEMPLATES.values()
    for name in ("control_tokens", "stop_tokens", "optional_tokens")
    for token in fields.get(name, ())
} - {"sop", "eop"}


@pytest.mark.parametrize("token", sorted(TOKENS | {"[INST]", "[/INST]", "<<SYS>>", "<|anything|>", "<eoh>"}))
def test_control_tokens_of_all_formats_are_found(token):
    assert notes(f"one {token} two") == [f"control token in text: {token}"]


@pytest.mark.parametrize(
    "words",
    ["a < b | c > d", "<div><span>", "x[0] [MASKED]", "List<String>", "<|>", "f(x) |> g", "<sup>2</sup>"],
)
def test_brackets_are_no_control_tokens(words):
    assert notes(words) == []


def test_everything_odd_is_said_once():
    found = Findings()
    check_text((Message("user", " a\xa0<s>\ufffd"), Message("assistant", " b\xa0<s>\ufffd")), found)
    assert list(found.notes) == [
        "white space before or after what is said",
        MOJIBAKE,
        "odd space U+00A0",
        "control token in text: <s>",
    ]
