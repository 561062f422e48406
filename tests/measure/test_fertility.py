import pytest

from anomia.errors import DataError
from anomia.measure.fertility import fertility, spaced


def test_words_where_there_are_spaces():
    found = fertility(["The word — 42!", "мир"], [7, 3])
    assert (found.unit, found.units, found.tokens) == ("word", 4, 10)
    assert found.tokens_per_unit == 2.5


@pytest.mark.parametrize("text", ["ภาษาไทย", "中文 文本", "日本語のテキスト", "ភាសា", "မြန်မာ"])
def test_characters_where_there_are_none(text):
    found = fertility([text], [4])
    assert found.unit == "character"
    assert found.units == len(text.replace(" ", ""))


@pytest.mark.parametrize("text", ["বাংলা ভাষা", "తెలుగు భాష", "한국어 문장", "اللغة العربية", "kiswahili"])
def test_scripts_with_spaces(text):
    assert spaced([text])
    assert fertility([text], [6]).units == len(text.split())


def test_edges():
    assert fertility([], []) is None
    assert fertility(["— !"], [3]) is None
    with pytest.raises(DataError, match="one count per text"):
        fertility(["a"], [])
