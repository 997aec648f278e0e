"""Settings from the environment: the database, the data folder, and single variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Variable:
    """An environment variable that fedsweep reads."""

    name: str
    meaning: str
    """Its value, and the consequence of it."""
    default: str
    """The consequence if it is not set."""
    ours: bool = True
    """False if other programs define it."""


DATABASE = "FEDSWEEP_DB"
"""The variable with the URL of the database."""

DATA = "FEDSWEEP_DATA"
"""The variable with the folder of the data sets."""

NOTIFY = "FEDSWEEP_NOTIFY"
"""The variable with the webhooks, separated by spaces."""

ARTIFACTS = "FEDSWEEP_ARTIFACTS"
"""The variable with a place that is approved for every database."""

TOKEN = "FEDSWEEP_TOKEN"  # noqa: S105  # the name of the variable
"""The variable with the token of the pages."""

VARIABLES = (
    Variable(
        DATABASE,
        "URL of the database, as for `--db`.",
        "`sqlite:///fedsweep.db` in the working folder",
    ),
    Variable(
        DATA,
        "Folder of the data sets, as for `--data`. Give it to `plan` and to `work`.",
        "some data sets are downloaded into the cache; others need the folder",
    ),
    Variable(
        "FEDSWEEP_CACHE",
        "Folder of decoded images, on a local disk that other users cannot write.",
        "the user's cache folder",
    ),
    Variable(
        NOTIFY,
        "Webhooks of `work`, separated by spaces, as for `--notify`.",
        "no notices are sent",
    ),
    Variable(
        ARTIFACTS,
        "Folder or URL of artifacts that is approved for every database, as for `--artifacts`.",
        "only approvals by `plan --artifacts`, `work --artifacts` and `db trust` count",
    ),
    Variable(
        TOKEN,
        "Token that the pages of `serve` require, as for `--token`.",
        "a new random token",
    ),
    Variable(
        "FEDSWEEP_LAUNCH",
        "Launch, scheduler and job of a worker, as JSON. `fedsweep launch` sets it.",
        "an attempt names no launch",
    ),
    Variable(
        "FEDSWEEP_LAUNCH_POLL",
        "Seconds between two looks of a Ray launch's supervisor at the queue.",
        "3",
    ),
    Variable(
        "FEDSWEEP_TEST_ENGINE",
        "Engine that trains every trial instead of the usual ones. It is for tests.",
        "`work --engine` decides",
    ),
    Variable(
        "RAY_ADDRESS",
        "Address of Ray's head, as for `launch ray --address`.",
        "the Ray of this machine",
        ours=False,
    ),
    Variable(
        "SLURM_JOB_ID",
        "Job of a worker. Slurm sets it in a job, as the other variables of Slurm.",
        "an attempt names no job",
        ours=False,
    ),
    Variable(
        "SLURM_ARRAY_JOB_ID",
        "Job array of a worker.",
        "`SLURM_JOB_ID` is used",
        ours=False,
    ),
    Variable(
        "SLURM_ARRAY_TASK_ID",
        "Task of a worker in its job array.",
        "the job has one worker",
        ours=False,
    ),
    Variable(
        "SLURM_JOB_START_TIME",
        "Start of the job. The worker derives from it how long the job may run.",
        "the worker knows no time limit",
        ours=False,
    ),
    Variable(
        "SLURM_JOB_END_TIME",
        "End of the job. The worker gives its trials back before it.",
        "the worker knows no time limit",
        ours=False,
    ),
    Variable(
        "PGSERVICE",
        "Connection service of libpq. All PG… variables of libpq keep their meaning.",
        "the URL alone names the server",
        ours=False,
    ),
    Variable(
        "HOME",
        "Home folder. Approvals, caches and snapshots are in it.",
        "a temporary folder, with a warning",
        ours=False,
    ),
    Variable(
        "TMPDIR",
        "Folder of temporary files.",
        "a folder that can be written, of those that Python tries",
        ours=False,
    ),
    Variable(
        "USER",
        "Name of the user, which launches store.",
        "the name of the account, otherwise uid-N",
        ours=False,
    ),
    Variable(
        "XDG_CACHE_HOME",
        "Folder of the user's caches.",
        "~/.cache, or a temporary folder with a warning if the home folder cannot be written",
        ours=False,
    ),
    Variable(
        "XDG_DATA_HOME",
        "Folder of the user's data: snapshots of a Postgres database, and approvals.",
        "~/.local/share, or a temporary folder with a warning",
        ours=False,
    ),
    Variable(
        "COLUMNS",
        "Width of tables in characters.",
        "the width of the terminal",
        ours=False,
    ),
    Variable(
        "CUBLAS_WORKSPACE_CONFIG",
        "Workspace of cuBLAS. Results on a GPU are only repeatable with :4096:8 or :16:8.",
        ":4096:8",
        ours=False,
    ),
    Variable(
        "MPLCONFIGDIR",
        "Folder of matplotlib's cache.",
        "matplotlib's own, or a temporary folder if the home folder cannot be written",
        ours=False,
    ),
    Variable(
        "MLFLOW_DISABLE_TELEMETRY",
        "Telemetry of MLflow in `export mlflow`.",
        "true: MLflow sends no telemetry",
        ours=False,
    ),
    Variable(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "Retries of MLflow's requests in `export mlflow`.",
        "3",
        ours=False,
    ),
    Variable(
        "PYTHONSAFEPATH",
        "Keeps the working folder out of Python's path. fedsweep sets it for its own processes.",
        "1 in those processes",
        ours=False,
    ),
)
"""Every environment variable that the code reads. A test finds a read of any other."""

DEFAULT_URL = "sqlite:///fedsweep.db"
"""The database without an option and a variable: a file in the working folder."""

BYTE_ORDER_MARK = "\ufeff"
"""The character that some editors write first in a file, which `"$(cat url.txt)"` then reads."""


def tidy(value: str) -> str:
    """Return a value without a byte-order mark and without white space around it."""
    return value.strip().removeprefix(BYTE_ORDER_MARK).strip()


def setting(name: str) -> str | None:
    """Return an environment variable without white space; None if it is not set or blank."""
    return tidy(os.environ.get(name, "")) or None


def database(url: str | None) -> str:
    """Return a database's URL, otherwise that of $FEDSWEEP_DB, otherwise `DEFAULT_URL`."""
    return tidy(url or "") or setting(DATABASE) or DEFAULT_URL


def data_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """Return the absolute path of a folder, otherwise of $FEDSWEEP_DATA, otherwise None."""
    named = folder or setting(DATA)
    return Path(named).expanduser().absolute() if named else None
