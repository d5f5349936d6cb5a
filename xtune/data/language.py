"""Says which language a text is in: by its script, or by py3langid's model, which is in its wheel."""

from __future__ import annotations

import functools
import re

# How much of a text is looked at. More changes little and costs time.
FIRST_CHARACTERS = 500

# Below this the model guesses: on short questions beside code its wrong answers lie here, with few right ones.
MIN_CONFIDENCE = 0.3

# The languages that fine-tuning data is in. Left out are those that the model takes short texts and code of
# other languages for, such as Latin, Ligurian and Nigerian Pidgin.
LANGUAGES = (  # noqa: SIM905
    "af am ar az be bg bn ca cs cy da de el en es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka "
    "kk km kn ko ky lo lt lv mk ml mn mr ms mt my ne nl nn no pa pl ps pt ro ru si sk sl so sq sr sv sw "
    "ta te "  # codespell:ignore te
    "th tl tr ug uk ur uz vi xh zh zu "
).split()

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7af"
_SCRIPTS = {name: re.compile(f"[{block}]") for name, block in (("ja", _KANA), ("ko", _HANGUL), ("zh", _HAN))}
_CJK = re.compile(f"[{_HAN}{_KANA}{_HANGUL}]")
_WORD = re.compile(f"[^\\W\\d_{_HAN}{_KANA}{_HANGUL}]+")


def detect_language(text: str) -> str:
    """The language of the start of a text as its ISO 639-1 code; "und" where it has no letters or cannot be told.

    "zh", "ja" and "ko" are told by the script, counting such a character as much as a word of another language;
    "zh" is any Chinese. Deterministic; 0.1 ms for those, else 0.3 ms, and a second for the first text.
    """
    text = text[:FIRST_CHARACTERS]
    cjk = len(_CJK.findall(text))
    words = len(_WORD.findall(text))
    if cjk > words:
        # Japanese is written with Han characters as well, but hardly a sentence without kana.
        found = {name: len(script.findall(text)) for name, script in _SCRIPTS.items()}
        return "ja" if 5 * found["ja"] > cjk else "ko" if 2 * found["ko"] > cjk else "zh"
    if not words:
        return "und"
    language, confidence = _model().classify(_CJK.sub(" ", text))
    return language if confidence >= MIN_CONFIDENCE else "und"


@functools.cache
def _model():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages(LANGUAGES)
    return model
