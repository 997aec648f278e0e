"""Secrets in foreign texts."""

from __future__ import annotations

import pytest

from fedsweep import redaction
from fedsweep.redaction import hide_secrets

SECRETS = [
    ("postgresql://u:{}@h/n refused", "hunter2"),
    ("postgresql+psycopg://u:{}@h:5/n", "p@ss:w"),
    ("redis://:{}@h", "hunter2"),
    ("https://{}@host/x", "TOKEN"),
    ("git+https://{}@github.com/a/b", "tok"),
    ("see https://h/a?next=https://{}@h2/", "tok"),
    ("custom://{}@host", "abcdefghij0123456789"),
    ("postgresql://h/n?user=u&password={}&x=1", "hunter2"),
    ("postgresql://h/n?sslpassword={}", "hunter2"),
    ("PGPASSWORD={} psql", "hunter2"),
    ("token={} is wrong", "abc123"),
    ("password='{}' host=h", "two words"),
    ('{{"password": "{}", "user": "u"}}', 'a \\"quoted\\" one'),
    ("{{'db_password': '{}', 'user': 'u'}}", "x"),
    ('{{"password":{}}}', "123456"),
    ('{{\\"password\\": \\"{}\\", \\"a\\": 1}}', "hunter2"),
    ("password: {}", "hunter"),
    ("password: {} and more", "hunter2"),
    ("api_key: '{}'", "x"),
    ("<password>{}</password>", "hunter"),
    ("password%3D{}%26x", "hunter2"),
    ("--token {} --x", "s3cret"),
    ("['tool', '--password', '{}', 'x']", "hunter"),
    ("AKIA{}", "IOSFODNN7EXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY={}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("aws_secret_access_key = {}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ('"SecretAccessKey": "{}"', "wJalrXUtnFEMI/K7MDENG"),
    ("https://b.s3.amazonaws.com/k?X-Amz-Signature={}&x=1", "fe5f80f77d5fa3beca038a248ff027"),
    ("https://b/k?X-Amz-Credential={}&x", "AKIAIOSFODNN7EXAMPLE%2F2026%2Fus-east-1"),
    ("https://b/k?x=1&X-Amz-Security-Token={}", "IQoJb3JpZ2lu"),
    ("https://storage.googleapis.com/b/k?X-Goog-Signature={}", "247a1"),
    ("https://b/k?AWSAccessKeyId=x&Signature={}&Expires=1", "vjbyPxybdZaNmGa%2ByT272YEAiv4%3D"),
    ("https://a.blob.core.windows.net/c?sv=2022&sig={}&se=2", "abc%2Bdef%3D"),
    ("https://maps.example/?key={}", "k3y"),
    ("SharedAccessSignature={};x", "sv=2022"),
    ("AccountName=x;AccountKey={};EndpointSuffix=y", "abc=="),
    ("Authorization: Bearer {}", "abc.def"),
    ("authorization: basic {}", "dTpw"),
    ('"Authorization": "Bearer {}"', "abc"),
    ("(b'authorization', b'Bearer {}')", "abc"),
    ("Proxy-Authorization: Basic {}", "dTpw"),
    ("Authorization: AWS4-HMAC-SHA256 Credential={}, Signature=x", "AK/2026/us-east-1"),
    ('Authorization: Digest username="u", response="{}"', "6629fae49393a05397450978507c4ef1"),
    ("Authorization: {}", "0123abcdef"),
    ("sent 'Bearer {}'", "0123abcdef"),
    ("X-Api-Key: {}", "0123abcd"),
    ("Cookie: session={}; x=y", "abc"),
    ("ghp_{} is wrong", "abcdefghijklmnopqrst0123456789abcdef"),
    ("hf_{}", "abcdefghijklmnopqrst01"),
    ("eyJ{}", "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    ("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----", "MIIEow\nIBAAKC"),
]

PLAIN = [
    "postgresql://u@h/n cannot be reached",
    "ssh://git@github.com/a/b",
    "http://127.0.0.1:8000/trials?state=failed",
    "postgresql://u:***@h/n refuses the user or the password: correct them in --db",
    "--db has an @ in its user or password: write it as %40",
    "check the host, port, user and password in --db",
    'password authentication failed for user "u"',
    "the token must be at least 16 letters: leave it out for a fresh one",
    "max_tokens=512, num_tokens=3, design=x, bypass=1, seed=0",
    "def connect(token: str, password: str) -> None:",
    "a basic configuration, whose bearer authentication is off",
    "KeyError: 'alpha'",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_is_hidden(text: str, secret: str) -> None:
    """Every form that libraries and servers write is hidden, and a second time changes nothing."""
    shown = hide_secrets(text.format(secret))
    assert secret not in shown
    assert "***" in shown
    assert hide_secrets(shown) == shown
    assert secret not in hide_secrets(f"failed with {text.format(secret)!r} as it is")


@pytest.mark.parametrize("text", PLAIN)
def test_a_sentence_about_secrets_stays_as_it_is(text: str) -> None:
    """Words about secrets are not hidden."""
    assert hide_secrets(text) == text


@pytest.mark.parametrize(("text", "secret"), [*SECRETS[:3], SECRETS[16], SECRETS[-1]])
def test_a_long_text_is_cut_between_secrets(text: str, secret: str) -> None:
    """No half of a secret is left at any place of the cut."""
    part = text.format(secret)
    half = redaction.LONGEST // 2
    for place in (0, len(part) // 4, len(part) // 2, len(part) - 1, len(part)):
        long = "." * (half - place - 1) + "\n" + part + "\n" + "." * redaction.LONGEST
        shown = hide_secrets(long)
        assert secret not in shown
        assert len(shown) <= redaction.LONGEST + 100
    assert hide_secrets("z" * 10 * redaction.LONGEST).count("z") == 0


def test_a_long_error_keeps_its_start_and_its_end() -> None:
    """The first words name the error, and the last words its cause."""
    text = redaction.clipped("first " + "x" * 60_000 + " last", 1_000)
    assert text.startswith("first ")
    assert text.endswith(" last")
    assert "characters left out" in text
    assert len(text) < 1_100
    assert redaction.clipped("short", 1_000) == "short"
