"""Settings of a machine: none fails a trial. fedsweep avoids it, or ends with one sentence."""

from __future__ import annotations

import errno
import getpass
import multiprocessing.heap
import multiprocessing.synchronize
import multiprocessing.util
import os
import pwd
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from platformdirs import user_cache_path, user_data_path
from sqlalchemy.engine import Engine

from fedsweep import machine, queue, shared, worker
from fedsweep.errors import MachineError, PlanError
from fedsweep.execution import data
from fedsweep.execution.attempt import execute
from fedsweep.execution.place import Place
from fedsweep.plans import read_plan
from fedsweep.store import moment, planning
from fedsweep.store.clock import read_clock
from fedsweep.store.engine import make_engine
from fedsweep.store.tables import attempts, trials
from fedsweep.store.transactions import transaction
from fedsweep.worker.watch import _Watch
from tests.acceptance.command import at_once
from tests.image_folders import make_image_folder
from trainers.data import content, files, images, sources
from trainers.data.errors import BadData, MachineLimit

pytestmark = pytest.mark.quick_on("sqlite")

FULL = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
NO_THREAD = RuntimeError("can't start new thread")
NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.fixture(autouse=True)
def own_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: None
) -> Iterator[Path]:
    """An empty temporary folder, and an environment that is restored."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    before = dict(os.environ)
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "TMPDIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    machine.settle_home.cache_clear()
    yield folder
    machine.settle_home.cache_clear()
    os.environ.clear()
    os.environ.update(before)


def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user be a number without a name and without HOME, as in a container."""

    def missing(number: object) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for variable in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", missing)


def test_a_user_without_a_home_folder_gets_one(
    monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    """Caches go to a private folder, and one warning says so."""
    nobody(monkeypatch)
    with pytest.raises(RuntimeError):
        user_cache_path("fedsweep")
    warning = machine.settle_home()
    assert warning is not None
    place = own_temporary_folder / f"fedsweep-{os.getuid()}"
    assert str(place) in warning
    assert user_cache_path("fedsweep").is_relative_to(place)
    assert user_data_path("fedsweep").is_relative_to(place)
    assert place.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser()


@pytest.mark.parametrize("command", [["plan", "tiny.toml"], ["status"], ["trial", "list"]])
def test_commands_work_without_a_home_folder(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    """Planning and reading need no home folder."""
    at_once("plan", "tiny.toml", cwd=tiny.parent)
    nobody(monkeypatch)
    assert at_once(*command, cwd=tiny.parent).stderr == ""


def read_only(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let HOME be a folder that this user cannot write, even as root."""
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    real = os.access

    def access(path: Any, mode: int) -> bool:
        return real(path, mode) and not (mode & os.W_OK and Path(path).is_relative_to(home))

    monkeypatch.setattr(os, "access", access)


def test_a_home_folder_that_cannot_be_written_is_replaced_for_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HOME stays the same, because passwords and credentials are read from it."""
    read_only(monkeypatch, tmp_path / "home")
    warning = machine.settle_home()
    assert warning is not None
    assert "XDG_CACHE_HOME" in warning
    assert os.environ["HOME"] == str(tmp_path / "home")
    assert not user_cache_path("fedsweep").is_relative_to(tmp_path / "home")


def test_data_in_a_read_only_home_folder_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They were downloaded before, and are not downloaded again."""
    (tmp_path / "home" / ".cache" / "fedsweep").mkdir(parents=True)
    (tmp_path / "home" / ".local" / "share" / "fedsweep").mkdir(parents=True)
    (tmp_path / "home").rename(tmp_path / "full")
    read_only(monkeypatch, tmp_path / "home")
    (tmp_path / "home").rmdir()
    (tmp_path / "full").rename(tmp_path / "home")
    assert machine.settle_home() is None
    assert user_cache_path("fedsweep").is_relative_to(tmp_path / "home")


def test_a_folder_of_another_user_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path, tmp_path: Path
) -> None:
    """A link in the temporary folder may lead anywhere."""
    (own_temporary_folder / f"fedsweep-{os.getuid()}").symlink_to(tmp_path)
    nobody(monkeypatch)
    machine.settle_home()
    home = Path(os.environ["HOME"])
    assert home.parent == own_temporary_folder
    assert not home.is_symlink()


def no_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])


def test_temporary_files_find_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Child processes get the folder by TMPDIR."""
    no_temporary(monkeypatch)
    monkeypatch.setattr(machine, "_other_places", lambda: [Path("/proc/none"), tmp_path])
    machine.settle_temporary()
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(tmp_path)


def test_a_machine_without_a_temporary_folder_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str, tiny: Path
) -> None:
    """`work` ends with exit code 2 before it claims a trial. A report as a workbook does too."""
    at_once("plan", str(tiny), "--db", sqlite_url)
    no_temporary(monkeypatch)
    monkeypatch.setattr(machine, "_other_places", lambda: [Path("/proc/none")])
    done = at_once("work", "--db", sqlite_url, "--device", "cpu", "--until-empty", code=2)
    assert done.stderr.count("\n") == 1
    assert "name one in TMPDIR" in done.stderr
    assert_untouched(sqlite_url)
    done = at_once("report", "--db", sqlite_url, "--format", "xlsx", "--output", "x", code=2)
    assert done.stderr.count("\n") == 1
    assert "name one in TMPDIR" in done.stderr


@pytest.mark.parametrize(
    ("soft", "hard", "slots", "allowed"),
    [
        (32, 32, 1, 32),
        (16, 16, 1, None),
        (128, 128, 60, None),
        (64, 1000, 1, 1000),
        (64, 1_000_000, 1, 4096),
        (64, resource.RLIM_INFINITY, 4000, 8028),
        (8192, 8192, 1, 8192),
    ],
)
def test_a_worker_raises_its_limit_of_open_files(
    soft: int, hard: int, slots: int, allowed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hard limit bounds it. If it is too low, the error names the required number."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limit: limits.append(limit))
    if allowed is None:
        with pytest.raises(MachineError, match=f"needs {28 + 2 * slots} open files, and {soft}"):
            machine.allow_files(slots)
    else:
        machine.allow_files(slots)
        assert limits[-1] == (allowed, hard)


def assert_untouched(url: str) -> None:
    engine = make_engine(url)
    with transaction(engine) as c:
        assert c.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one() == 0
    engine.dispose()


@pytest.mark.parametrize(
    ("error", "remedy"), [(NO_PROCESS, "ulimit -u"), (FULL, "ulimit -n"), (NO_THREAD, "ulimit -u")]
)
def test_a_slot_that_cannot_be_started_ends_the_worker(
    error: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch, sqlite_url: str, tiny: Path
) -> None:
    """No trial is claimed, and `work` ends with exit code 2 and one sentence."""

    def refuse(*_: object) -> None:
        raise error

    at_once("plan", str(tiny), "--db", sqlite_url)
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", refuse)
    done = at_once("work", "--db", sqlite_url, "--device", "cpu", "--until-empty", code=2)
    assert done.stderr.count("\n") == 1
    assert remedy in done.stderr
    assert_untouched(sqlite_url)


def test_a_watch_needs_neither_shared_memory_nor_semaphores(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    """A container's /dev/shm may be tiny, read-only or missing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/dev/shm")

    monkeypatch.setattr(multiprocessing.heap.Arena, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    watch = _Watch(worker.WorkOptions(sqlite_url, slots=3), lambda _view: None)
    watch.slots[1].shared.steps = 7
    attached = shared.attach(watch.memory, 1)
    attached.steps += 1
    watch.stop_slots()
    assert [slot.shared.steps for slot in watch.slots] == [0, 8, 0]
    assert attached.stop == 1
    watch.boxes.cleanup()
    watch.engine.dispose()


@pytest.mark.parametrize("error", [FULL, NO_THREAD, MachineLimit("no room: name another")])
def test_a_trial_that_meets_a_limit_is_given_back_uncharged(
    error: Exception, store: Engine, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may train it. This worker ends with one sentence."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    with transaction(store) as c:
        planning.add_sweep(c, read_plan(tiny).alone())
        claim = queue.claim(c, queue.Claimant("w", "cpu", "h", 1), read_clock(c))
    assert claim is not None
    monkeypatch.setattr("trainers.seq.load", refuse)
    with pytest.raises(MachineError, match="cannot run here"):
        execute(store, claim, Place(), lambda: False, lambda _row: None)
    with transaction(store) as c:
        row = c.execute(
            sa.select(trials.c.state, trials.c.failures, trials.c.losses).where(
                trials.c.id == claim.trial
            )
        ).one()
        outcome = c.execute(sa.select(attempts.c.outcome)).scalar_one()
    assert tuple(row) == ("queued", 0, 0)
    assert outcome == "released"


def test_errors_of_the_trial_are_not_faults_of_the_machine() -> None:
    """A missing file, a wrong shape and a bug fail the trial."""
    for error in (
        FileNotFoundError(errno.ENOENT, "no"),
        RuntimeError("shapes differ"),
        KeyError(),
        BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0),
    ):
        assert machine.fault(error) is None


READS: dict[str, Callable[[Path], object]] = {
    "listing": lambda root: files.list_files("imagefolder", root),
    "hashing": lambda root: content.read_content(root, [root / "train" / "class0" / "000.png"]),
    "decoding": lambda root: images.opened(root / "train" / "class0" / "000.png"),
}


@pytest.mark.parametrize("read", READS)
def test_a_limit_of_open_files_is_not_bad_data(
    read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intact images are not called damaged, which would be final."""

    def refuse(*_: object, **__: object) -> None:
        raise FULL

    root = make_image_folder(tmp_path / "images", each=4)
    READS[read](root)
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MachineLimit, match="ulimit -n"):
        READS[read](root)


def test_a_plan_that_meets_a_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    """The error names the limit, and nothing is written."""

    def refuse(*_: object) -> None:
        raise MachineLimit("Too many open files: raise the limit")

    monkeypatch.setattr("trainers.data.listing.list_files", refuse)
    sweep = read_plan(tiny, ["dataset=imagefolder", "image_size=32"])
    with pytest.raises(PlanError, match="Too many open files"):
        data.look_at_data(sweep, tmp_path)


@pytest.mark.parametrize("dataset", ["cifar10", "tiny-imagenet"])
def test_a_cache_that_cannot_be_written_is_not_bad_data(
    dataset: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A data set that must be downloaded fails no trial."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MachineLimit, match="XDG_CACHE_HOME"):
        sources.find(dataset, None, image_size=None, image_height=None)


def test_a_file_that_is_not_an_image_is_bad_data(tmp_path: Path) -> None:
    """The number of the error distinguishes a limit from damage."""
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(BadData, match="cannot be read as an image"):
        images.opened(tmp_path / "x.png")


def test_without_proc_all_processes_of_a_boot_share_one_clock_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With random names, they would take over trials from each other."""

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no", "/proc")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("psutil.boot_time", refuse)
    moment.boot_id.cache_clear()
    moment.boot_offset.cache_clear()
    try:
        assert moment.boot_id() == os.uname().nodename
        assert moment.boot_offset() == 0.0
    finally:
        moment.boot_id.cache_clear()
        moment.boot_offset.cache_clear()
