"""The metrics for Prometheus."""

from __future__ import annotations

import re

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fedsweep.serve.metrics import escape
from tests.unit.serve.pages import HOSTILE

pytestmark = pytest.mark.quick_on("sqlite")

LINE = re.compile(r'fedsweep_\w+(\{(\w+="([^"\\\n]|\\["\\n])*",?)*\})? [-+0-9.e]+')


def lines_of(client: TestClient) -> list[str]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text.splitlines()


def test_the_metrics_cover_trials_rounds_failures_slots_and_the_ledger(
    client: TestClient, worked: Engine
) -> None:
    """Trials are counted by sweep and state, failures by kind, slots by their lease."""
    lines = lines_of(client)
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


def test_every_line_is_valid(client: TestClient, hostile: Engine) -> None:
    """A sweep may have any name."""
    for line in lines_of(client):
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(line), line


def test_the_value_of_a_label_is_escaped() -> None:
    """The format requires it for backslash, quote and line feed."""
    assert escape('a\\b"c\nd') == 'a\\\\b\\"c\\nd'
    assert escape(HOSTILE).count('\\"') == HOSTILE.count('"')
