"""What Prometheus is told."""

from __future__ import annotations

import re

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.serve.metrics import escape
from tests.serve.pages import HOSTILE

pytestmark = pytest.mark.quick_on("sqlite")

LINE = re.compile(r'fedsweep_\w+(\{(\w+="([^"\\\n]|\\["\\n])*",?)*\})? [-+0-9.e]+')


def told(client: TestClient) -> list[str]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text.splitlines()


def test_trials_rounds_failures_slots_and_the_ledger_are_told(
    client: TestClient, worked: Engine
) -> None:
    """By sweep and state, kind, and whether their lease is over."""
    lines = told(client)
    for line in (
        'fedsweep_trials{sweep="tiny",state="finished"} 1',
        'fedsweep_trials{sweep="tiny",state="queued"} 2',
        'fedsweep_rounds_done{sweep="tiny"} 5',
        'fedsweep_failures{kind="diverged"} 1',
        "fedsweep_slots_training{} 1",
        "fedsweep_slots_silent{} 0",
        'fedsweep_memory_bytes{worker="host-1-0-abc",host="host",device="cpu"} 1234000000',
        'fedsweep_rounds_trained_total{sweep="tiny"} 5',
        'fedsweep_seconds_trained_total{sweep="tiny"} 0.625',
        'fedsweep_rounds_lost_total{sweep="tiny"} 0',
    ):
        assert line in lines


def test_every_line_is_a_sample_or_about_one(client: TestClient, hostile: Engine) -> None:
    """Whatever a sweep is called."""
    for line in told(client):
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(line), line


def test_a_label_s_value_is_escaped() -> None:
    """As the format says: backslash, quote, end of line."""
    assert escape('a\\b"c\nd') == 'a\\\\b\\"c\\nd'
    assert escape(HOSTILE).count('\\"') == HOSTILE.count('"')
