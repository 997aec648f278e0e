"""Writing a file that a user names, whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedsweep import files
from fedsweep.files import stdout_kept_for, write_whole, written

UNPRIVILEGED = 65534
"""The user nobody, who does not have the permissions of root."""


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def nobody() -> Iterator[None]:
    """Drop the permissions of root within the block."""
    os.setegid(UNPRIVILEGED)
    os.seteuid(UNPRIVILEGED)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.mark.parametrize("exists", [True, False], ids=["file", "dangling"])
def test_symbolic_links_are_followed(tmp_path: Path, exists: bool) -> None:
    """The link stays and its target has the content, also through a second link."""
    (tmp_path / "data").mkdir()
    target, middle, link = tmp_path / "data" / "target", tmp_path / "middle", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    middle.symlink_to("data/target")
    link.symlink_to(middle)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert middle.is_symlink()
    assert target.read_bytes() == b"new"
    assert left(tmp_path) == ["data", "link", "middle"]
    assert left(target.parent) == ["target"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_the_mode_of_the_old_file_is_kept(tmp_path: Path, mode: int) -> None:
    """The umask does not change the mode of an existing file."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(mode)
    write_whole(file, b"new")
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_bytes() == b"new"


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    """The mode is that of a file that the shell creates."""
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_hard_link_stays_linked(tmp_path: Path) -> None:
    """Both names have the new content, also if the content is shorter."""
    (tmp_path / "one").write_bytes(b"old and long")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    write_whole(tmp_path / "two", b"new")
    assert (tmp_path / "one").read_bytes() == b"new"
    assert left(tmp_path) == ["one", "two"]


@needs_root
def test_the_owner_of_the_old_file_is_kept(tmp_path: Path) -> None:
    """The owner stays if root replaces the file of another user."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    os.chown(file, UNPRIVILEGED, UNPRIVILEGED)
    write_whole(file, b"new")
    assert (file.stat().st_uid, file.stat().st_gid) == (UNPRIVILEGED, UNPRIVILEGED)


@needs_root
@pytest.mark.parametrize("sticky", [False, True], ids=["closed folder", "sticky folder"])
def test_a_writable_file_in_a_read_only_folder_is_written_in_place(
    tmp_path: Path, sticky: bool
) -> None:
    """The inode, mode and owner of the file stay."""
    place = Path("/tmp", f"fedsweep-test-{os.getpid()}")  # a folder that others may enter
    place.mkdir()
    try:
        file = place / "file"
        file.write_bytes(b"old and long")
        file.chmod(0o666)
        place.chmod(0o1777 if sticky else 0o755)
        before = file.stat()
        with nobody():
            write_whole(file, b"new")
        after = file.stat()
        assert file.read_bytes() == b"new"
        assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, 0)
        assert left(place) == ["file"]
        file.chmod(0o444)
        with nobody(), pytest.raises(PermissionError):
            write_whole(file, b"newer")
        assert file.read_bytes() == b"new"
    finally:
        for entry in place.iterdir():
            entry.unlink()
        place.rmdir()


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """The reader gets every byte of a content that is larger than the pipe's buffer."""
    pipe, content, got = tmp_path / "pipe", os.urandom(300_000), []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with written(pipe) as file:
        file.write(b"xxxx")
        file.seek(0)  # as a zip file does
        file.write(content)
    reader.join()
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    """The device stays, also through a link, and although `overwrite` is off."""
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), link):
        write_whole(path, b"new", overwrite=False)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert left(tmp_path) == ["link"]


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_descriptor_is_written_at_its_position(tmp_path: Path, form: str) -> None:
    """A shell's `>> file` keeps the old content and the inode."""
    log = tmp_path / "log"
    log.write_bytes(b"before ")
    with log.open("ab") as opened:
        path = Path(form.format(opened.fileno()))
        if form == "link":
            path = tmp_path / "link"
            path.symlink_to(f"/dev/fd/{opened.fileno()}")
        write_whole(path, b"new ")
        write_whole(path, b"again")
    assert log.read_bytes() == b"before new again"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, exists: bool, stop: BaseException | type[BaseException]
) -> None:
    """Neither Ctrl-C nor a full disk leaves anything else."""
    file = tmp_path / "file"
    if exists:
        file.write_bytes(b"old")

    def interrupted() -> None:
        with written(file) as out:
            out.write(b"half")
            raise stop

    with pytest.raises((KeyboardInterrupt, OSError)):
        interrupted()
    assert left(tmp_path) == (["file"] if exists else [])
    assert not exists or file.read_bytes() == b"old"


@pytest.mark.parametrize("linked", [True, False], ids=["in place", "replaced"])
def test_a_disk_without_room_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """The space is reserved before a file is overwritten in place."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    if linked:
        (tmp_path / "other").hardlink_to(file)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, b"new and longer")
    assert file.read_bytes() == b"old"
    assert left(tmp_path) == (["file", "other"] if linked else ["file"])


@pytest.mark.parametrize("dangling", [False, True])
def test_a_file_is_only_overwritten_on_request(tmp_path: Path, dangling: bool) -> None:
    """A file that another process creates in the meantime is not overwritten either."""
    target = path = tmp_path / "file"
    if dangling:
        path = tmp_path / "link"
        path.symlink_to(target)
    with pytest.raises(FileExistsError), written(path, overwrite=False):
        target.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        write_whole(path, b"new", overwrite=False)
    assert target.read_bytes() == b"theirs"
    assert left(tmp_path) == (["file", "link"] if dangling else ["file"])
    write_whole(path, b"new")
    assert target.read_bytes() == b"new"


def test_a_folder_and_a_loop_of_links_are_refused(tmp_path: Path) -> None:
    """Nothing is written to them."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"new")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "loop", b"new")
    assert left(tmp_path) == ["loop"]


def test_a_temporary_file_never_goes_through_a_planted_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is random, and a name that exists is refused."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / f"{files.TEMPORARY}guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "file", b"new")
    assert victim.read_bytes() == b"precious"


def test_lines_printed_next_to_data_on_stdout_go_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--output /dev/stdout` gives only the data."""
    for path in (Path("/dev/stdout"), Path("/dev/fd/1"), tmp_path / "file"):
        with stdout_kept_for(path):
            write_whole(path, b"data\n")
            print(f"written: {path}")
    out, err = capfd.readouterr()
    sys.stdout.flush()
    assert out == f"data\ndata\nwritten: {tmp_path}/file\n"
    assert err == "written: /dev/stdout\nwritten: /dev/fd/1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM and SIGHUP remove the temporary file, and get their old handlers back."""
    target = tmp_path / "report.html"
    target.write_text("old")
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended, written(target):
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "old")]
