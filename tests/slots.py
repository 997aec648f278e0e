"""A slot's loop in the process of a test, without a watch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from fedsweep import worker
from fedsweep.shared import Shared
from fedsweep.worker.company import Solo
from fedsweep.worker.kinds import Record
from fedsweep.worker.slot import SlotLoop
from tests.builders import WORKER


def slot_loop(store: Engine) -> Any:
    """Return the loop of slot 0. It has no pipe."""
    stop_requested = threading.Event()
    options, memory = worker.WorkOptions(""), Shared()
    return SlotLoop(
        options, 0, store, WORKER, None, stop_requested, Path(), memory, Solo(), Record()
    )
