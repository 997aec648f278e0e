"""A server of our own: restarted, crowded, read by those who may not write."""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Connection, Engine

from fedsweep import cli, queue
from fedsweep.cli.console import console
from fedsweep.errors import StoreBusy, StoreError, StoreReadOnly, StoreUnreachable
from fedsweep.plans import Round, read_plan
from fedsweep.serve.read_cache import ReadCache
from fedsweep.states import Hold, Outcome
from fedsweep.store import clock, planning, round_rows, sweep_rows, transactions
from fedsweep.store.claim import Claim
from fedsweep.store.dialects.postgres_engine import POSTGRES_SETTINGS
from fedsweep.store.engine import close_idle, make_engine
from fedsweep.store.readonly import open_to_read
from fedsweep.store.schema import open_store, open_to_write
from fedsweep.store.tables import attempts, rounds, sweeps, trials
from fedsweep.store.wakeup import Wakeup
from tests.acceptance.command import eventually
from tests.builders import TINY, WORKER
from tests.chaos.stores import Postgres
from tests.unit.serve.pages import TOKEN, anonymous, finished, paths

PROCESSES, THREADS, EACH = 10, 30, 2
"""Three hundred workers, and two trials for each."""


@pytest.fixture(autouse=True)
def own_console() -> Iterator[None]:
    """A command that runs in this process writes where this test listens."""
    console.cache_clear()
    yield
    console.cache_clear()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def store(server: Postgres) -> Iterator[Engine]:
    """The server's only store, empty again."""
    server.mend()
    engine = open_store(server.url)
    with transactions.transaction(engine) as c:
        c.execute(sa.text("TRUNCATE sweeps, trials RESTART IDENTITY CASCADE"))
    yield engine
    engine.dispose()


def test_each_connection_has_its_limits_of_time(store: Engine) -> None:
    """A statement, a wait for a lock, and a transaction that does nothing, all end."""
    for begin in (transactions.transaction, transactions.reading):
        with begin(store) as c:
            found = {
                name: c.execute(sa.text(f"SHOW {name}")).scalar_one()
                for name in (*POSTGRES_SETTINGS, "application_name")
            }
        minutes = {"lock_timeout": "1min"}  # as the server writes it
        assert found == {**POSTGRES_SETTINGS, **minutes, "application_name": "fedsweep"}
        assert "0" not in found.values()


def limited(server: Postgres, monkeypatch: pytest.MonkeyPatch, name: str, limit: str) -> Engine:
    """A store under a limit that a test can wait for."""
    monkeypatch.setitem(POSTGRES_SETTINGS, name, limit)
    url = sa.make_url(server.url).set(username="postgres", password="hunter2")
    return make_engine(url.render_as_string(hide_password=False))


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("statement_timeout", "SELECT pg_sleep(60)"),
        ("lock_timeout", "LOCK TABLE sweeps IN EXCLUSIVE MODE"),
    ],
)
def test_a_statement_that_takes_too_long_is_named_and_may_be_retried(
    name: str, statement: str, store: Engine, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sleep, and a lock that another transaction has; one sentence without the password."""
    short = limited(server, monkeypatch, name, "1s")
    with transactions.transaction(store) as other:
        other.execute(sa.text("LOCK TABLE sweeps IN EXCLUSIVE MODE"))
        with (
            pytest.raises(StoreBusy, match=r"was too busy \(canceling statement") as caught,
            transactions.transaction(short) as c,
        ):
            c.execute(sa.text(statement))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    short.dispose()


def test_a_worker_that_stops_within_a_transaction_loses_it_and_does_it_again(
    store: Engine, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are free for others long before it wakes up. Then it starts again."""
    short = limited(server, monkeypatch, "idle_in_transaction_session_timeout", "1s")
    with transactions.transaction(store) as c:
        c.execute(sa.insert(sweeps).values(name="x", created_at=0))
    renamed = sa.update(sweeps).where(sweeps.c.name == "x")
    tries = []

    def work(c: Connection) -> None:
        tries.append(c.execute(renamed.values(created_at=sweeps.c.created_at + 1)).rowcount)
        if len(tries) == 1:  # asleep: another transaction waits for the row, and gets it
            with transactions.transaction(store) as other:
                other.execute(renamed.values(created_at=sweeps.c.created_at + 10))
        c.execute(sa.select(sweeps.c.id))

    transactions.patiently(short, work)
    short.dispose()
    assert len(tries) >= 2
    with transactions.reading(store) as c:
        assert c.execute(sa.select(sweeps.c.created_at)).scalar_one() == 11


def test_work_waits_while_a_server_accepts_no_writes(store: Engine, server: Postgres) -> None:
    """An administrator makes the database read-only for a while; other commands refuse at once."""
    name = store.url.database
    set_to = f"ALTER DATABASE {name} SET default_transaction_read_only = "
    tries: list[str] = []
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"{set_to}on")
        close_idle(store)
        for open_one in (open_to_write, open_and_write):
            with pytest.raises(StoreReadOnly, match="is read-only") as caught:
                open_one(server.url)
            assert "\n" not in str(caught.value)

        def work(c: Connection) -> None:
            tries.append("once")
            if len(tries) == 2:
                admin.execute("SET default_transaction_read_only = off")
                admin.execute(f"{set_to}off")
            c.execute(sa.insert(sweeps).values(name="x", created_at=0))

        transactions.patiently(store, work)
    assert len(tries) == 3
    with transactions.reading(store) as c:
        assert c.execute(sa.select(sweeps.c.name)).scalars().all() == ["x"]


def open_and_write(url: str) -> None:
    engine = open_store(url)
    try:
        with transactions.transaction(engine) as c:
            c.execute(sa.insert(sweeps).values(name="y", created_at=0))
    finally:
        engine.dispose()


def test_work_survives_a_restart_of_the_server_and_is_done_once(
    store: Engine, server: Postgres
) -> None:
    """Stopped in the middle of a transaction: nothing of it stays, then all of it, once."""
    begun, gone = threading.Event(), threading.Event()
    tries: list[int] = []

    def work(c: Connection) -> str:
        tries.append(1)
        c.execute(sa.insert(sweeps).values(name="x", created_at=len(tries)))
        begun.set()
        assert gone.wait(60)
        return str(c.execute(sa.select(sweeps.c.name)).scalar_one())

    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(transactions.patiently(store, work)))
    thread.start()
    assert begun.wait(60)
    server.stop("fast")
    gone.set()
    eventually(lambda: not store.pool.checkedout())  # it has met the error
    server.mend()
    thread.join(60)
    assert said == ["x"]
    assert len(tries) == 2
    with transactions.reading(store) as c:
        assert c.execute(sa.select(sweeps.c.created_at)).scalars().all() == [2.0]


def test_a_connection_that_outlived_its_server_is_not_used_again(
    store: Engine, server: Postgres
) -> None:
    """While it is down: unreachable, in one sentence. Once it is back: the next try meets it."""

    def look() -> int:
        with transactions.reading(store) as c:
            return int(c.execute(sa.select(sa.func.count()).select_from(sweeps)).scalar_one())

    assert look() == 0
    server.stop("immediate")
    for _ in range(2):
        with pytest.raises(StoreUnreachable, match="cannot be reached") as caught:
            look()
        assert "\n" not in str(caught.value)
    server.mend()
    assert look() == 0
    server.stop("fast")
    server.mend()
    assert transactions.through_an_outage(look) == 0


def test_letting_go_leaves_the_server_no_connection(store: Engine) -> None:
    """A trainer holds none between its writes."""
    with transactions.transaction(store):
        pass
    close_idle(store)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fedsweep'"
    with psycopg.connect(_plain(store)) as admin:
        admin.autocommit = True
        eventually(lambda: admin.execute(count).fetchone() == (0,))


def paused(c: Connection, name: str) -> None:
    queue.hold_sweep(c, name, Hold.PAUSE)


def cancelled(c: Connection, name: str) -> None:
    queue.hold_sweep(c, name, Hold.CANCEL)
    queue.cancel(c, sweep_rows.held_alone(c, name))


def planned(c: Connection, name: str, *normalizers: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.toml"
        file.write_text(TINY.partition("[[grid]]")[0] + f"[[grid]]\nnormalizer = {[*normalizers]}")
        planning.add_sweep(c, replace(read_plan(file), name=name))
    queue.planned(c, name, None)


Ask = Callable[[Connection], object]
AT_ONCE: dict[str, tuple[Ask, Ask, str, tuple[str, str | None]]] = {
    "two pauses": (
        lambda c: paused(c, "a"),
        lambda c: paused(c, "b"),
        "bn",
        ("queued", "pause"),
    ),
    "two cancellations": (
        lambda c: cancelled(c, "a"),
        lambda c: cancelled(c, "b"),
        "bn",
        ("cancelled", None),
    ),
    "a retry and a pause": (
        lambda c: queue.retry(c, [2]),
        lambda c: paused(c, "alone"),
        "gn",
        ("queued", "pause"),
    ),
    "a pause and a planning": (
        lambda c: paused(c, "alone"),
        lambda c: planned(c, "alone", "ln"),
        "ln",
        ("queued", "pause"),
    ),
    "a pause and a budget": (
        lambda c: paused(c, "a"),
        lambda c: queue.budget(c, "b", rounds=5, hours=None),
        "bn",
        ("queued", None),
    ),
}


@pytest.mark.parametrize("what", AT_ONCE)
def test_commands_of_several_people_come_out_as_if_one_after_another(
    what: str, store: Engine
) -> None:
    """The second waits for the first one's commit, and sees what it did to the trials of both."""
    one, other, normalizer, expected = AT_ONCE[what]
    with transactions.transaction(store) as c:
        planned(c, "a", "bn")
        planned(c, "alone", "gn")
        planned(c, "b", "bn")
        queue.cancel(c, [2])

    def second() -> None:
        with transactions.transaction(store) as c:
            other(c)

    thread = threading.Thread(target=second)
    with transactions.transaction(store) as c:
        one(c)
        thread.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with psycopg.connect(_plain(store), autocommit=True) as admin:
            eventually(lambda: admin.execute(waits).fetchone())
    thread.join(60)
    with transactions.reading(store) as c:
        found = sa.select(trials.c.state, trials.c.held).where(trials.c.normalizer == normalizer)
        assert tuple(c.execute(found).one()) == expected


def _plain(store: Engine) -> str:
    """Its URL as the driver reads it."""
    return store.url.set(drivername="postgresql").render_as_string(hide_password=False)


def claim_and_finish(url: str, name: str, failures: list[str], room: Any) -> None:
    """Claim and finish trials as one worker, which closes its connection after each transaction."""
    worker, lease = queue.Claimant(name, "cpu"), 600.0  # nobody renews it on a busy machine

    def take(c: Connection) -> Claim | None:
        return queue.claim(c, worker, clock.read_clock(c), lease=lease)

    def finish(c: Connection, claim: Claim) -> None:
        held = queue.renew(c, claim, clock.read_clock(c), lease=lease)
        row = Round(1, "explore", 1.0, 1.0, 0.5, None, None, 1, 1, 0.1)
        assert round_rows.add_rounds(c, claim, [row], held.final_round) is None
        queue.finish(c, claim)

    room.wait()
    try:
        store = transactions.through_an_outage(lambda: make_engine(url))
        while claim := transactions.patiently(store, take):
            close_idle(store)
            transactions.patiently(store, lambda c, claim=claim: finish(c, claim))  # type: ignore[misc]
            close_idle(store)
        store.dispose()
    except Exception as error:  # noqa: BLE001  # any error
        failures.append(repr(error))


def crowd(url: str, name: str, barrier: Any, out: Any) -> None:
    """Thirty workers of one process."""
    failures: list[str] = []
    room = threading.Barrier(THREADS)
    threads = [
        threading.Thread(target=claim_and_finish, args=(url, f"{name}-{i}", failures, room))
        for i in range(THREADS)
    ]
    barrier.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.put(failures)


@pytest.mark.slow
def test_three_hundred_workers_share_a_server_of_a_hundred_connections(
    store: Engine, server: Postgres, tiny: Path
) -> None:
    """Most of them are taken already; every trial is finished once, and nobody meets an error."""
    count = PROCESSES * THREADS * EACH
    tiny.write_text(tiny.read_text().replace("seed = [0, 1]", f"seed = {list(range(count))}"))
    with transactions.transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["rounds=1", "normalizer=bn"]))
        assert c.execute(sa.text("SHOW max_connections")).scalar_one() == "100"
    close_idle(store)
    spawn = get_context("spawn")
    barrier, out = spawn.Barrier(PROCESSES), spawn.Queue()
    processes = [
        spawn.Process(target=crowd, args=(server.url, str(i), barrier, out))
        for i in range(PROCESSES)
    ]
    with ExitStack() as taken:
        for _ in range(80):
            taken.enter_context(psycopg.connect(server.url))
        for process in processes:
            process.start()
        failures = [failure for _ in processes for failure in out.get(timeout=300)]
        for process in processes:
            process.join()
    assert failures == []
    assert "too many clients" in server.server.log.read_text()
    with transactions.reading(store) as c:
        done = sa.select(sa.func.count()).where(trials.c.state == "finished", trials.c.fence == 1)
        assert c.execute(done).scalar_one() == count
        for table in (attempts, rounds):
            assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == count
        outcomes = c.execute(sa.select(attempts.c.outcome).distinct()).scalars().all()
    assert outcomes == [Outcome.FINISHED]


def test_listeners_leave_half_of_the_connections_to_those_who_work(store: Engine) -> None:
    """Beyond that an idle worker polls; it listens as soon as there is room again."""
    with store.connect() as c:
        most = int(c.execute(sa.text("SHOW max_connections")).scalar_one())
    others = sa.create_engine(store.url, poolclass=sa.pool.NullPool)
    taken = [others.connect() for _ in range(most // 2)]
    bell = Wakeup(store, queue.CHANNEL)
    bell.wait(3600.0, lambda: False)
    assert bell.listening is None
    for connection in taken:
        connection.close()

    def listens() -> bool:
        bell.wait(3600.0, lambda: False)
        return bell.listening is not None

    eventually(listens)
    bell.close()


@pytest.fixture
def analyst(store: Engine, server: Postgres, tiny: Path) -> Iterator[str]:
    """The URL of a role that may read; a sweep with a finished trial is there."""
    with transactions.transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny, ["rounds=1"]))
        claim = queue.claim(c, WORKER, clock.read_clock(c))
        assert claim is not None
        round_rows.add_rounds(c, claim, [Round(1, "explore", 1.0, 1.0, 0.5, None, None, 1, 1, 0.1)])
        queue.finish(c, claim)
    name = f"analyst_{uuid.uuid4().hex[:8]}"
    role = sql.Identifier(name)
    with psycopg.connect(server.url, autocommit=True) as admin:
        for text in (
            "CREATE ROLE {} LOGIN PASSWORD 'hunter2'",
            "GRANT USAGE ON SCHEMA public TO {}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}",
        ):
            admin.execute(sql.SQL(text).format(role))
        url = sa.make_url(server.url).set(username=name, password="hunter2")
        yield url.render_as_string(hide_password=False)
        admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Commands, in this process: their exit codes, what they print, what they complain of."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsweep", *arguments])
        code = 0
        with warnings.catch_warnings(action="ignore"):  # a command leaves its end to the process
            try:
                cli.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
            gc.collect()
        return code, *capfd.readouterr()

    return command


def test_an_analyst_s_role_reads_everything(analyst: str, run: Run, tmp_path: Path) -> None:
    """By the commands that people read by, and by statements of their own."""
    code, said, _ = run("sql", "SELECT count(*) AS n FROM curves", "--db", analyst)
    assert (code, "1" in said) == (0, True)
    assert "1/6" in run("status", "--db", analyst)[1]
    code, said, _ = run("trial", "list", "--state", "finished", "--db", analyst)
    trial = next(line.split()[0] for line in said.splitlines() if " finished " in line)
    assert "50.00%" in said
    assert "test_accuracy" in run("trial", "show", trial, "--db", analyst)[1]
    page = tmp_path / "report.csv"
    done = run("report", "--format", "csv", "--output", str(page), "--db", analyst)
    assert done[0] == 0
    assert page.stat().st_size > 0


@pytest.mark.parametrize(
    "command",
    ["plan", "work", "sweep pause", "sweep cancel", "sweep budget --none", "trial priority --to 1"],
)
def test_an_analyst_s_role_changes_nothing(
    command: str, analyst: str, run: Run, tiny: Path, store: Engine
) -> None:
    """Refused in one sentence that says what to do, and never the password."""
    before = everything(store)
    what = {
        "plan": [str(tiny)],
        "work": ["--device", "cpu", "--until-empty"],
        "trial priority --to 1": [before[0]["trial_id"]],
    }
    code, _, complaint = run(*command.split(), *what.get(command, ["tiny"]), "--db", analyst)
    assert code == 2
    (sentence,) = complaint.splitlines()
    assert "permission denied" in sentence
    assert "have it granted, or name another in --db" in sentence
    assert "hunter2" not in complaint
    assert everything(store) == before


def everything(store: Engine) -> list[dict[str, Any]]:
    with transactions.reading(store) as c:
        return [
            dict(row)
            for table in (trials, sweeps, attempts)
            for row in c.execute(sa.select(table).order_by(table.c.id)).mappings()
        ]


def test_a_role_that_does_not_own_the_views_cannot_upgrade(analyst: str) -> None:
    """The server's own message is shown like the others."""
    engine = make_engine(analyst)
    with (
        pytest.raises(StoreReadOnly, match="must be owner of"),
        transactions.transaction(engine) as c,
    ):
        c.execute(sa.text("DROP VIEW cells"))
    engine.dispose()


def test_a_password_is_in_no_message(server: Postgres) -> None:
    """The fault may be in the user, the database or the server."""
    right = sa.make_url(server.url).set(password="hunter2")
    for wrong in ({"username": "nobody"}, {"database": "nowhere"}, {"query": {"host": "/nowhere"}}):
        with pytest.raises(StoreError) as caught:
            make_engine(right.set(**wrong).render_as_string(hide_password=False))
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pages_need_no_transaction_number(store: Engine, server: Postgres, tiny: Path) -> None:
    """A transaction that only reads gets none. The number counts the writers of all databases."""
    with transactions.transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny))
    finished(store)
    look = open_to_read(server.url, page=True)
    client = anonymous(ReadCache(look, tick=0.0, rest=0.0))
    client.headers["authorization"] = f"Bearer {TOKEN}"
    next_number = sa.text("SELECT pg_snapshot_xmax(pg_current_snapshot())")
    addresses = [path for path in paths(server.url) if not path.startswith("/sql?")]
    with store.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        before = c.execute(next_number).scalar_one()
        for address in [*addresses, "/metrics", "/healthz"]:
            assert client.get(address).status_code < 500, address
        assert c.execute(next_number).scalar_one() == before
    look.dispose()
