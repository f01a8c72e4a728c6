import pytest

from pretune.text.language import language_of

TEXTS = {
    "zh": ["这家酒店很干净，服务也好。", "今天的 weather 真的很好 2024", "選擇珠江花園的原因就是方便"],
    "en": [
        "The hotel was clean.",
        "",
        "ホテルはとても綺麗でした。",
        "호텔이 깨끗했다",
        "a text with 一 character of it here",
    ],
}


@pytest.mark.parametrize(("language", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_language_of_the_data(language: str, text: str) -> None:
    assert language_of(text) == language
