"""Ctrl-C: it ends a command at any moment with exit code 130 and at most one line.

Python raises KeyboardInterrupt in the statement that is running. While modules are imported, and
while the interpreter ends, that prints a traceback. Therefore the process has three phases.

- Starting: there is nothing to clean up, so Ctrl-C ends the process at once.
- Running: Ctrl-C raises, so that the command can clean up.
- Ending: the command is over, so Ctrl-C ends the process at once.

Commands that stop in their own way (`work`, `serve`) set other handlers while they run.
"""

from __future__ import annotations

# `signal` itself imports for milliseconds, in which Ctrl-C would print a traceback.
import _signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

EXIT_CODE = 128 + 2
"""A shell's status for SIGINT."""
LINE = "fedsweep: interrupted"
"""The line that a command prints when Ctrl-C ends it."""
RETRY_SECONDS = 0.02
"""Seconds until an interrupt is raised again after it was lost, for example in a destructor."""

_is_running = False
_was_raised = False


def watch() -> None:
    """End this process without a traceback at Ctrl-C, from now on.

    A process that was started with Ctrl-C ignored still ignores it.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _interrupted)
        sys.excepthook = _on_exception
        sys.unraisablehook = _on_unraisable


def run(command: Callable[[], None]) -> None:
    """Run a command. If Ctrl-C ended it, exit with EXIT_CODE.

    A library may turn the interrupt into another error. That error is not shown.
    """
    global _is_running  # noqa: PLW0603  # a process runs one command
    try:
        try:
            _is_running = True
            command()
        finally:
            _is_running = False
    except BaseException as error:
        if not _was_raised or (isinstance(error, SystemExit) and not error.code):
            raise
        if isinstance(error, KeyboardInterrupt) or _code(error) == EXIT_CODE:
            print(LINE, file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None


def block(*numbers: int) -> set[int]:
    """Block signals in this thread and in the processes that it starts.

    A child begins with the signals blocked, so that it can set its handlers before it gets them.
    Returns the signals that were blocked before, for `restore`.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # when it starts, it unblocks SIGINT
    before: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, numbers)
    return before


def restore(before: set[int]) -> None:
    """Unblock the signals that `block` has blocked. Those that came in the meantime arrive now."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def ignore(*numbers: int) -> None:
    """Ignore signals from now on, including those that the parent has blocked."""
    for number in numbers:
        _signal.signal(number, _signal.SIG_IGN)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, numbers)


def _code(error: BaseException) -> object:
    return error.code if isinstance(error, SystemExit) else None


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    global _was_raised  # noqa: PLW0603
    if not _is_running:
        _leave()
    _was_raised = True
    raise KeyboardInterrupt


def _leave() -> None:
    """End the process at once, without running any more Python code."""
    try:
        if not _was_raised:
            os.write(2, f"{LINE}\n".encode())
    except OSError:
        pass
    os._exit(EXIT_CODE)


def _on_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    sys.__excepthook__(kind, error, trace)


def _on_unraisable(problem: sys.UnraisableHookArgs) -> None:
    """Send the signal again if an interrupt was lost in a destructor or a callback."""
    if not issubclass(problem.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(problem)
        return
    import threading

    timer = threading.Timer(RETRY_SECONDS, os.kill, [os.getpid(), _signal.SIGINT])
    timer.daemon = True
    timer.start()
