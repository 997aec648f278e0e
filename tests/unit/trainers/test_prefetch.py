"""The helper process: it changes no number, costs no trial, and ends with its trainer."""

from __future__ import annotations

import array
import fcntl
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.acceptance.command import PATIENCE, eventually
from tests.builders import REPOSITORY
from tests.unit.trainers.arms import small, trace
from trainers import draw_source, fedavg, prefetch
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.draw_source import Cache, DrawSource
from trainers.draws import Sampling, draw
from trainers.numerics import make_deterministic
from trainers.prefetch import BadHelper, Helper

ROUNDS = 12


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a helper after the first round, and cache nothing."""
    monkeypatch.setattr(draw_source, "START_SECONDS", 0.0)
    monkeypatch.setattr(draw_source, "cache", Cache(0))


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Helper]]:
    """The helpers that a test starts. After the test, none is left, even as a zombie."""
    started: list[Helper] = []

    class Noted(Helper):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(prefetch, "Helper", Noted)
    yield started
    for helper in started:
        assert helper.process.returncode is not None
        assert not psutil.pid_exists(helper.process.pid)


def sampled(samples: int = 50) -> Sampling:
    """Return a sampling of four clients, of which three are in each round."""
    ends = range(0, 4 * samples, samples)
    parts = tuple(np.arange(start, start + samples) for start in ends)
    return Sampling(7, 3, 8, 4, (5,) * 4, parts)


def contents(sampling: Sampling, first: int = 1, last: int = ROUNDS) -> list[bytearray]:
    return [draw(sampling, round).content for round in range(first, last + 1)]


def arrived(helper: Helper) -> bool:
    """Wait until the helper has written something, or has ended."""
    return bool(select.select([helper.stdout], [], [], PATIENCE)[0])


def take(helper: Helper, round: int) -> bytearray:
    """Return a round of the helper. Wait for all of it, instead of skipping it."""
    skip, helper._skip_to = helper._skip_to, lambda _round: None  # type: ignore[method-assign]
    while (drawn := helper.take(round)) is None:
        assert arrived(helper)
    helper._skip_to = skip  # type: ignore[method-assign]
    return drawn.content


def waiting_bytes(helper: Helper) -> int:
    """Return how many bytes have arrived."""
    count = array.array("i", [0])
    fcntl.ioctl(helper.stdout, termios.FIONREAD, count)
    return count[0]


def test_the_rounds_of_a_helper_equal_those_of_the_trainer(helpers: list[Helper]) -> None:
    """After the first one, each comes from the helper."""
    sampling = sampled()
    helper = prefetch.Helper(sampling, draw(sampling, 1), 300)
    assert [take(helper, round) for round in range(2, 301)] == contents(sampling, 2, 300)
    helper.close()
    helper.close()


def test_a_source_takes_the_rounds_of_its_helper(
    helpers: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the helper when it has the last round."""
    sampling = sampled()
    wanted = contents(sampling, 5)
    source = DrawSource(sampling, ROUNDS)
    assert source.round(5).content == wanted[0]  # a trial that is resumed begins later
    (helper,) = helpers
    while helper.proof is not None:
        assert arrived(helper)
        helper.take(5)
    monkeypatch.setattr(draw_source, "draw", None)  # a round that is drawn here would fail
    frame = prefetch._FRAME.size + len(wanted[0])
    for round, content in enumerate(wanted[1:], 6):
        assert helper.process.poll() is None
        eventually(lambda: waiting_bytes(helper) >= frame)
        assert source.round(round).content == content
    assert helper.process.returncode is not None


@pytest.mark.parametrize("killed", [2, 3, 7, ROUNDS])
def test_a_killed_helper_changes_nothing(killed: int, helpers: list[Helper]) -> None:
    """It is killed before any round, and reaped when the trainer notices."""
    sampling = sampled()
    source = DrawSource(sampling, ROUNDS)
    rounds = []
    for round in range(1, ROUNDS + 1):
        if round == killed:
            helpers[0].process.kill()
            helpers[0].process.wait()
        elif helpers and helpers[0].process.returncode is None:
            arrived(helpers[0])
        rounds.append(source.round(round).content)
    assert rounds == contents(sampling)
    assert len(helpers) == 1
    source.close()


BAD = {
    "ends at once": "pass",
    "fails": "raise MemoryError",
    "writes garbage": "import os; os.write(1, os.urandom(1000)); os.read(0, 10**6)",
    "writes zeros": "import os; os.write(1, bytes(1000)); os.read(0, 10**6)",
    "writes little": "import os; os.write(1, b'x'); os.read(0, 1); os.close(1)",
    "writes half a round": "import trainers.prefetch as p\n"
    "write = p._write\n"
    "p._write = lambda content: (write(content[:-9]), p.os._exit(0))\n"
    "p.main()",
    "draws other numbers": "import trainers.prefetch as p\n"
    "draw = p.draw\n"
    "p.draw = lambda sampling, round: draw(sampling, round + 1)\n"
    "p.main()",
    "breaks later": "import trainers.prefetch as p\n"
    "write = p._write\n"
    "p._write = lambda content: (write(content), write(bytes(999)))\n"
    "p.main()",
    "changes a byte of its second round": "import trainers.prefetch as p\n"
    "crc, rounds = p.zlib.crc32, []\n"
    "def check(content):\n"
    "    number = crc(content)\n"
    "    rounds.append(number)\n"
    "    if len(rounds) > 1: content[3] = 7\n"
    "    return number\n"
    "p.zlib.crc32 = check\n"
    "p.main()",
}
"""Programs that a helper could be."""


@pytest.mark.parametrize("program", BAD)
def test_a_bad_helper_changes_nothing(
    program: str, helpers: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer draws by itself, and closes the helper."""
    start = f"import sys; sys.path.append(sys.argv.pop())\n{BAD[program]}"
    monkeypatch.setattr(prefetch, "_START", start)
    sampling = sampled()
    source = DrawSource(sampling, 10**6)
    rounds = [source.round(1).content]
    (helper,) = helpers
    while source._helper is not None:
        arrived(helper)
        rounds.append(source.round(len(rounds) + 1).content)
    for _ in range(3):
        rounds.append(source.round(len(rounds) + 1).content)
    assert rounds == contents(sampling, 1, len(rounds))
    assert helper.process.returncode is not None
    assert len(helpers) == 1


def test_a_silent_helper_is_not_waited_for(
    helpers: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing, so that a long job never fits into its pipe."""
    monkeypatch.setattr(prefetch, "_START", "import signal; signal.pause()")
    sampling = sampled(50_000)
    source = DrawSource(sampling, 40)
    assert [source.round(r).content for r in range(1, 40)] == contents(sampling, 1, 39)
    (helper,) = helpers
    assert len(helper.unsent) > 0
    source.close()


def test_a_stopped_helper_is_passed_and_catches_up(helpers: list[Helper]) -> None:
    """It skips the rounds that the trainer has drawn in the meantime."""
    sampling = sampled()
    helper = prefetch.Helper(sampling, draw(sampling, 1), 10**6)
    assert take(helper, 2) == contents(sampling, 2, 2)[0]
    helper.process.send_signal(signal.SIGSTOP)
    round = 3
    while helper.take(round) is not None:  # those that it had written
        round += 1
    helper.take(10**5)
    helper.process.send_signal(signal.SIGCONT)
    assert take(helper, 10**5 + 1) == contents(sampling, 10**5 + 1, 10**5 + 1)[0]
    helper.close()


def test_a_slow_helper_is_closed(helpers: list[Helper], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its work would be wasted. Rounds before its first answer do not count."""
    monkeypatch.setattr(prefetch, "MISSES_IN_A_ROW", 5)
    sampling = sampled()
    helper = prefetch.Helper(sampling, draw(sampling, 1), 10**6)
    while helper.proof is not None:
        assert arrived(helper)
        helper.take(1)
    helper.process.send_signal(signal.SIGSTOP)
    misses = [helper.take(round) for round in range(10**6 - 10, 10**6 - 6)]
    assert misses == [None] * 4
    with pytest.raises(BadHelper, match="slower"):
        helper.take(10**6)
    helper.close()


def test_no_helper_starts_for_rounds_that_do_not_fit_into_the_pipe(
    helpers: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = sampled()
    monkeypatch.setattr(prefetch, "PIPE_BYTES", len(draw(sampling, 1).content))
    monkeypatch.setattr(prefetch, "USUAL_PIPE_BYTES", 1)
    monkeypatch.setattr(prefetch, "_widen", lambda _pipe: 1000)
    source = DrawSource(sampling, ROUNDS)
    assert [source.round(r).content for r in range(1, 4)] == contents(sampling, 1, 3)
    assert source._helper is None
    assert helpers == []


@pytest.mark.parametrize("error", [OSError, RuntimeError, BlockingIOError])
def test_a_helper_that_cannot_start_changes_nothing(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may have no process or no memory left. A trial tries it once."""
    tries = []

    def refuse() -> None:
        tries.append(1)
        raise error

    monkeypatch.setattr(prefetch, "_start", refuse)
    sampling = sampled()
    source = DrawSource(sampling, ROUNDS)
    assert [source.round(r).content for r in range(1, 4)] == contents(sampling, 1, 3)
    assert len(tries) == 1


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", [{}, {"diagnostics": True, "momentum": "local"}], ids=str)
def test_a_trial_with_a_helper_has_the_same_rounds(
    arm: dict[str, Any], digits: Dataset, helpers: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, resumed, and in another order of clients. The helper ends with the generator."""
    chosen = small(rounds=8, **arm)
    monkeypatch.setattr(draw_source, "START_SECONDS", float("inf"))
    wanted = trace(chosen, digits)
    assert helpers == []
    monkeypatch.setattr(draw_source, "START_SECONDS", 0.0)
    assert trace(chosen, digits) == wanted
    assert trace(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == wanted
    rounds = fedavg.run(chosen, digits)
    states = [next(rounds).state() for _ in range(3)]
    assert helpers[-1].process.returncode is None
    rounds.close()
    assert trace(chosen, digits, states[-1]) == wanted[3:]
    assert len(helpers) == 4
    assert all(helper.process.returncode is not None for helper in helpers)


PARENT = """
import os, select, signal, sys
import numpy as np
from trainers import draws, prefetch

for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: None)  # a program that it starts begins with the default
parts = tuple(np.arange(start, start + 50) for start in (0, 50))
sampling = draws.Sampling(7, 2, 8, 4, (5,) * 2, parts)
helper = prefetch.Helper(sampling, draws.draw(sampling, 1), 10**6)
helper._skip_to = lambda round: None  # it waits instead

def take(round):
    while (drawn := helper.take(round)) is None:
        select.select([helper.stdout], [], [])
    return drawn
"""
"""A trainer with a helper."""

GROUP = """
for round in range(2, 200):
    os.killpg(0, signal.SIGINT if round % 2 else signal.SIGHUP)
    assert take(round).content == draws.draw(sampling, round).content
assert helper.process.poll() is None
helper.close()
print("the helper stayed")
"""

FOREVER = """
take(2)
print(helper.process.pid, flush=True)
signal.pause()
"""


def parent(program: str, **options: Any) -> subprocess.Popen[str]:
    """Start a trainer in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT + program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_ctrl_c_and_a_hang_up_do_not_end_a_helper() -> None:
    """A terminal sends both to the whole process group. The first comes while the helper starts."""
    with parent(GROUP) as process:
        assert process.communicate(timeout=PATIENCE)[0] == "the helper stayed\n"


def gone(pid: int) -> bool:
    """Return whether a process has ended; the system may not have reaped it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_helper_ends_with_its_trainer(end: signal.Signals) -> None:
    """The pipes end, and the helper waits for no one else."""
    with parent(FOREVER) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.send_signal(end)
        process.wait()
        eventually(lambda: gone(pid))


def test_a_helper_with_no_round_left_ends_with_its_trainer() -> None:
    """It waits then, because its trainer has to reap it."""
    program = FOREVER.replace("take(2)", "take(3)")
    with parent(PARENT.replace("10**6", "3") + program) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.kill()
        process.wait()
        eventually(lambda: gone(pid))


def train_in_a_slot(out: Any) -> None:
    """Draw with a helper in a daemon process, as a slot could be."""
    sampling = sampled()
    helper = Helper(sampling, draw(sampling, 1), ROUNDS)
    rounds = [bytes(take(helper, round)) for round in range(2, ROUNDS + 1)]
    helper.close()
    out.put(rounds)


def test_a_daemon_process_may_have_a_helper() -> None:
    spawn = get_context("spawn")
    out = spawn.Queue()
    slot = spawn.Process(target=train_in_a_slot, args=(out,), daemon=True)
    slot.start()
    assert out.get(timeout=PATIENCE) == [bytes(content) for content in contents(sampled(), 2)]
    slot.join()


def test_a_helper_imports_nothing_from_the_working_folder(
    tmp_path: Path, helpers: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trainers", "numpy", "pickle", "struct", "zlib", "select"):
        (tmp_path / f"{name}.py").write_text("open('MARKER', 'a').write(__name__)\n")
    monkeypatch.chdir(tmp_path)
    sampling = sampled()
    helper = prefetch.Helper(sampling, draw(sampling, 1), ROUNDS)
    assert take(helper, 2) == draw(sampling, 2).content
    helper.close()
    assert not (tmp_path / "MARKER").exists()
