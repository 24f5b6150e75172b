"""Texts that every text metric must find identical to themselves."""

from __future__ import annotations

import pytest

IDENTICAL = {
    "en": "The quick brown fox jumps over the lazy dog.",
    "de": "Über den Fluss führt eine schöne Brücke.",
    "zh": "今天的天气非常好，我们去公园。",
    "ja": "今日はとてもいい天気です。",
    "ar": "ذهب الولد إلى المدرسة في الصباح.",
    "hi": "आज मौसम बहुत अच्छा है।",
    "th": "วันนี้อากาศดีมาก",
}


@pytest.fixture(params=IDENTICAL)
def identical(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A language and a text in it."""
    return request.param, IDENTICAL[request.param]
