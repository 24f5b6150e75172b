"""Personal data that has a shape of its own, replaced by its name in brackets: `ana@example.org` -> `[EMAIL]`.

Patterns find what is written in the usual forms, not names or addresses; for those there is `clean.hook`.
"""

from __future__ import annotations

import re

# ASCII classes throughout: in Chinese text an address has letters on both sides that are not its own.
_PATTERNS = {
    "email": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "url": r"(?i:https?://|www\.)[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*[A-Za-z0-9/]",
    "phone": r"(?<![\d.+])(?:"
    r"\+\d{1,3}(?:[ .()/-]{0,2}\d){6,12}"  # +49 341 123456
    r"|1[3-9]\d(?:[ -]?\d{4}){2}"  # Chinese mobile
    r"|(?:\(0\d{2,4}\)[ -]?|0\d{2,4}[ /-])\d{5,8}"  # with area code: Chinese and European landlines
    r"|\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}"  # North America
    r")(?!\d)",
    "ip_address": r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d)",
    "credit_card": r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)",
}
_COMPILED = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}


def redact(text: str, kind: str) -> str:
    """The text with everything of the kind replaced.

    >>> redact("call 138-0013-8000", "phone")
    'call [PHONE]'
    """
    name = f"[{kind.upper()}]"
    return _COMPILED[kind].sub(lambda match: name if kind != "credit_card" or _luhn(match[0]) else match[0], text)


def _luhn(number: str) -> bool:
    """The check digit of a card number (ISO/IEC 7812-1, annex B)."""
    digits = [int(c) for c in reversed(number) if c.isdigit()]
    return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0
