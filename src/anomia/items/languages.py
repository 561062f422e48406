"""Language names and codes: data sets write `sw`, `swahili` or `xquad.sw.json` for the same language."""

from __future__ import annotations

_NAMES = {
    "ar": "arabic", "bn": "bengali", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "gl": "galician", "gu": "gujarati", "ha": "hausa", "he": "hebrew", "hi": "hindi", "hu": "hungarian",
    "id": "indonesian", "ig": "igbo", "it": "italian", "ja": "japanese", "kn": "kannada", "ko": "korean",
    "lo": "lao", "ml": "malayalam", "mr": "marathi", "ms": "malay", "my": "burmese", "ne": "nepali",
    "nl": "dutch", "no": "norwegian", "pa": "punjabi", "pl": "polish", "pt": "portuguese", "ro": "romanian",
    "ru": "russian", "si": "sinhala", "sv": "swedish", "sw": "swahili", "ta": "tamil", "te": "telugu",
    "th": "thai", "tl": "tagalog", "tr": "turkish", "uk": "ukrainian", "ur": "urdu", "vi": "vietnamese",
    "yo": "yoruba", "zh": "chinese", "zu": "zulu",
}  # fmt: skip


UNKNOWN = "unknown"
"""In place of the name, where a text doesn't say its language."""


def language_name(label: str) -> str:
    """The English name of a language in lower case; an unknown label is only lowercased.

    >>> language_name("sw"), language_name("Swahili"), language_name("klingon")
    ('swahili', 'swahili', 'klingon')
    """
    lowered = label.strip().lower()
    return _NAMES.get(lowered, lowered)


def language_code(name: str) -> str | None:
    """The two-letter code of a language name, or None."""
    return next((code for code, known in _NAMES.items() if known == language_name(name)), None)
