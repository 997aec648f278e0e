"""Clean texts from outside before they are shown or stored: bounded, legible, without secrets.

Errors, logs and addresses come from libraries, servers and strangers. Each function takes time
linear in the length of its text. For this, each repetition in a pattern is bounded, or it is
possessive and followed by nothing that can fail.
"""

from __future__ import annotations

import re
from functools import cache

LONGEST = 100_000
"""Characters of a text that `hide_secrets` keeps. They fit on a page and in a database row."""


def legible(text: str) -> str:
    """Return the text with control characters and invalid Unicode replaced.

    A database refuses them, and a terminal obeys them.
    """
    return _CONTROL.sub("\ufffd", text.encode(errors="replace").decode())


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # without tab and line feed


def visible(text: str) -> str:
    """Return the text with each character replaced that would control a terminal."""
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line feed, line separators, characters that change the writing
direction, and surrogates."""


def clipped(text: str, most: int) -> str:
    """Return the text, or its start and its end if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} {_left_out(len(text) - 2 * half)} {text[-half:]}"


def _left_out(count: int) -> str:
    return f"… ({count:,} characters left out) …"


def hide_secrets(text: str) -> str:
    """Return the text with every password, token, key and signature replaced by ***.

    A text of more than LONGEST characters loses its middle.
    """
    text = _without_passwords(_clipped_at_lines(text))
    lowered = text.lower()
    has_name = any(word in lowered for word in _WORDS)
    for pattern, replacement in secrets():
        if _NAME in pattern.pattern and not has_name:
            continue  # most texts do not name a secret, and the search for names is the slowest
        text = pattern.sub(replacement, text)
    return text


def _clipped_at_lines(text: str) -> str:
    """Cut a long text only between words and lines, so that a secret is not cut in two."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    head, tail = text[:half], text[-half:]
    head = head[: max(head.rfind("\n"), head.rfind(" "), 0)]
    tail = tail.partition("\n")[2]
    return f"{head}\n{_left_out(len(text) - len(head) - len(tail))}\n{tail}"


def _without_passwords(text: str) -> str:
    """Hide the password in `scheme://user:password@host`, and the token in `https://token@host`.

    A password ends at the last @ of its word, because users write an @ in it without escaping.
    """
    pieces, kept, place = [], 0, text.find("://")
    while place >= 0:
        blank = _BLANK.search(text, place)
        end = blank.start() if blank else len(text)
        last = text.rfind("@", place, end)
        while 0 <= place < last:
            start = place + len("://")
            mark = _MARK.search(text, start, last + 1)
            assert mark is not None  # the @ is one
            stop = mark.start()
            if mark[0] == ":":
                pieces += [text[kept : stop + 1], "***"]
                kept = last
                break
            scheme = text[max(place - _SCHEME, 0) : place]
            if mark[0] == "@" and _is_token(scheme, text[start:stop]):
                pieces += [text[kept:start], "***"]
                kept = stop
            place = text.find("://", stop, last)
        place = text.find("://", end)
    return "".join([*pieces, text[kept:]])


_BLANK = re.compile(r"\s")
_MARK = re.compile(r"[/:@]")
_SCHEME = 5
"""Characters of the longest scheme in `_WEB_SCHEMES`."""
_WEB_SCHEMES = ("http", "https", "ws", "wss", "ftp", "ftps")
"""Schemes whose URLs have a token instead of a user without a password."""
_TOKEN_LENGTH = 20
"""Letters of a user name that make it a token. User names are shorter."""


def _is_token(scheme: str, user: str) -> bool:
    return scheme.lower().endswith(_WEB_SCHEMES) or len(user) >= _TOKEN_LENGTH


_NAME = r"""
(?: pass(?:word|wd|phrase|code)s?(?:[_-]?(?:hash|value|\d{1,3}))?
  | (?<![a-z])(?:db)?pass | pwd
  | secrets?(?:[_-]?(?:access[_-]?)?key(?:[_-]?id)?|[_-]?(?:value|id|\d{1,3}))?
  | token(?:[_-]?(?:value|secret|key|\d{1,3}))?
  | (?:api|access|account|auth|private|secret|shared|signing|encryption|master|service|storage)
    [_-]?key(?:[_-]?(?:id|secret|value|data|\d{1,3}))?
  | credentials? | signature | (?<![a-z])(?:sig|psk|authorization)
)"""
"""The end of a secret's name: PGPASSWORD, X-Amz-Signature, aws_secret_access_key."""

_WORDS = ("pass", "pwd", "secret", "token", "key", "credential", "sig", "psk", "authorization")
"""Parts of all names of secrets."""

_OPEN = r"""[bruf]?\\{0,3}["']"""
"""The start of a quoted value, also inside a string that is quoted itself."""

_REST = r"""
(?: (?<=\\")[^"\\\n]*+ | (?<=\\')[^'\\\n]*+
  | (?<=")[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+ | (?<=')[^'\\\n]*+(?:\\[^\n][^'\\\n]*+)*+
)"""
"""The rest of a quoted value, without its last quote; to the end of the line if it has none."""

_SECRETS: tuple[tuple[str, str], ...] = (
    (r"(?s)(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)(?:(?!-----END ).)*+", r"\1***"),
    (  # a header, as a request, a JSON object or a list of pairs writes it
        rf"""(?ix) (authorization\\{{0,3}}["']?[ \t]{{0,3}}[:=,][ \t]{{0,3}}(?:{_OPEN})?)
            (?: (?:digest|hawk|oauth|mac|aws4-hmac-sha256)[ \t]{{1,3}}[^\n]++
              | (?:basic|bearer|token|negotiate|ntlm|api-?key|key|hmac|aws|sharedkey(?:lite)?
                   |sharedaccesssignature)[ \t]{{1,3}}[^\s"'\\]++ )""",
        r"\1***",
    ),
    (
        r"(?i)(?<![a-z])(bearer[ \t]{1,3})(?=[a-z_~+/.=-]{0,80}\d)[\w~+/.=-]{8,}+",
        r"\1***",
    ),
    (
        r"""(?i)(?<![a-z])(cookie["']?[ \t]{0,3}:[ \t]{0,3}["']?)[^\s=;"']{1,80}=[^"'\n]*+""",
        r"\1***",
    ),
    (  # password=x, "password": "x", password: 'x'
        rf"""(?ix)
            ( {_NAME}
              (?: \\{{0,3}}["']?[ \t]{{0,3}}(?:=>|:=|={{1,2}}|%3D) | \\{{0,3}}["'][ \t]{{0,3}}:
                | [ \t]{{0,3}}:(?=[ \t]{{0,3}}{_OPEN}) )
              [ \t]{{0,3}}(?:{_OPEN})?+
            ) (?: {_REST} | (?<!["'])[^\s&'"]++ )""",
        r"\1***",
    ),
    (  # password: x9, --password x9: a word that is not part of a sentence
        rf"""(?ix)
            ( {_NAME}[ \t]{{0,3}}:[ \t]{{0,3}} | (?<![\w-])--[a-z-]{{0,30}}{_NAME}[ \t]{{1,3}} )
            (?!\*\*\*) (?=[^\s"']{{0,60}}[\d!#$%^&*+@\\=]) [^\s"',;]{{4,}}+""",
        r"\1***",
    ),
    (  # password: x, and nothing after it
        rf"""(?ix) ( {_NAME}[ \t]{{0,3}}:[ \t]{{1,3}} )
            [^\s"']{{4,200}}(?=[ \t]{{0,5}}(?:["'\n]|\Z))""",
        r"\1***",
    ),
    (
        rf"""(?ix) ((?<![\w-])--[a-z-]{{0,30}}{_NAME}["'],[ \t]{{0,3}}["'])[^"'\n]*+""",
        r"\1***",
    ),
    (rf"(?ix) ({_NAME}>)[^<\s]{{1,300}}(?=</)", r"\1***"),
    (r"""([?&](?:key|auth)=)[^\s&'"]++""", r"\1***"),
    (  # secrets with a form of their own
        r"""(?x) (?<![A-Za-z0-9])(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?![A-Za-z0-9])""",
        r"\1***",
    ),
    (
        r"""(?x) (?<![\w-])
            (gh[opsur]_|github_pat_|glpat-|hf_|sk-|xox[abeprs]-|AIza|npm_|pypi-)
            (?=[A-Za-z_-]{0,60}\d)[\w-]{16,}+""",
        r"\1***",
    ),
    (r"(?<![\w-])(eyJ)[\w-]{8,}+\.[\w-]{4,}+\.[\w-]*+", r"\1***"),
)
"""Patterns of secrets, and their replacements."""


@cache
def secrets() -> list[tuple[re.Pattern[str], str]]:
    """Return the compiled patterns of secrets. Commands that hide nothing do not compile them."""
    return [(re.compile(pattern), replacement) for pattern, replacement in _SECRETS]
