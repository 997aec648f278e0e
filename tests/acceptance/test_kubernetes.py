"""The manifest of workers on Kubernetes: its form, its options and its script.

The container's command runs without a cluster, on a machine that is like a pod.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from fedsweep.cli.app import app
from tests.acceptance.command import at_once, environment, eventually, query
from tests.builders import REPOSITORY
from tests.walk import slow_down, speed_up

DOCS = REPOSITORY / "docs" / "how-to"
PAGE = (DOCS / "kubernetes.md").read_text()
VERSIONS = ("1.31", "1.37")
"""The oldest version that has every field of the Job, and the newest one with a schema here."""
FILES = ("kubernetes.yaml", "kubernetes-secret.yaml")
DOCUMENTS = [
    document for name in FILES for document in yaml.safe_load_all((DOCS / name).read_text())
]
STOPPED = 143
"""The exit code of a container that was told to stop."""


def job() -> dict[str, Any]:
    """Return a copy of the Job."""
    (manifest,) = [d for d in DOCUMENTS if d["kind"] == "Job"]
    return copy.deepcopy(manifest)


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(manifest)["containers"]
    return dict(only)


def options() -> list[str]:
    """Return the container's arguments of fedsweep, without the script and its name."""
    return list(container(job())["args"][2:])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_every_document_of_the_manifest_is_valid(document: dict[str, Any], version: str) -> None:
    """Fields that Kubernetes does not know are errors."""
    assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "completionMod"), "Indexed"),
        (("spec", "completions"), "four"),
        (("spec", "podFailurePolicy", "rules", 0, "action"), None),
        (("spec", "template", "spec", "terminationGracePeriod"), 90),
        (("spec", "template", "spec", "containers", 0, "resource"), {}),
        (("spec", "template", "spec", "containers", 0, "securityContext", "readOnlyRoot"), True),
        (("spec", "template", "spec", "volumes", 0, "name"), None),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_a_wrong_field_of_the_manifest_is_refused(
    path: tuple[str | int, ...], value: object, version: str
) -> None:
    """A misspelled name, a wrong type, and a missing field that is required (None)."""
    changed = job()
    parent: Any = changed
    for part in path[:-1]:
        parent = parent[part]
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError) as refused:
        kubernetes_validate.validate(changed, version, strict=True)
    assert str(path[-1]) in refused.value.message or refused.value.path[-1] == path[-1]


def test_the_page_shows_the_resources_of_a_gpu_as_kubernetes_reads_them() -> None:
    """The block replaces that of the Job. Without their device and slots, the options are valid."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    changed = job()
    pod(changed)["containers"][0] |= yaml.safe_load(block)
    assert "nvidia.com/gpu" in container(changed)["resources"]["limits"]
    for version in VERSIONS:
        kubernetes_validate.validate(changed, version, strict=True)
    removed = set(re.findall(r"`(--(?:device|slots)=\w+)`", PAGE))
    assert removed == {"--device=cpu", "--slots=2"}
    assert removed < set(options())
    parsed([word for word in options() if word not in removed])


def test_the_page_changes_the_number_of_workers_in_a_valid_way() -> None:
    """`kubectl patch` replaces both numbers, which must be equal."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith("kubectl patch")]
    changes = yaml.safe_load(shlex.split(line)[-1])["spec"]
    changed = job()
    assert changes.keys() <= changed["spec"].keys()
    changed["spec"] |= changes
    for manifest in (job(), changed):
        assert manifest["spec"]["completions"] == manifest["spec"]["parallelism"]
        kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the values that a command gets from its words."""
    root = typer.main.get_command(app)
    command = root.commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:])
    return dict(context.params)


def test_work_accepts_the_options_of_the_manifest() -> None:
    """They are parsed as the command line does. The pod's time to stop is longer than --grace."""
    values = parsed(options())
    assert values["until_empty"]
    assert values["grace"] + 20 <= pod(job())["terminationGracePeriodSeconds"]
    mounts = {mount["name"]: mount for mount in container(job())["volumeMounts"]}
    assert values["artifacts"] == [mounts["artifacts"]["mountPath"]]
    assert values["slots"] == container(job())["resources"]["requests"]["cpu"]


def test_the_job_names_no_secret_and_writes_only_to_its_volumes() -> None:
    """The URL and the webhooks are variables of the Secret. Data are read-only."""
    manifest = job()
    (secret,) = [d for d in DOCUMENTS if d["kind"] == "Secret"]
    worker = container(manifest)
    assert [source["secretRef"]["name"] for source in worker["envFrom"]] == [
        secret["metadata"]["name"]
    ]
    assert set(secret["stringData"]) == {"FEDSWEEP_DB", "FEDSWEEP_NOTIFY"}
    text = yaml.safe_dump(manifest)
    assert "://" not in text
    assert not {"FEDSWEEP_DB", "FEDSWEEP_NOTIFY"} & {v["name"] for v in worker["env"]}
    mounts = {mount["mountPath"]: mount for mount in worker["volumeMounts"]}
    variables = {variable["name"]: variable["value"] for variable in worker["env"]}
    assert mounts[variables["FEDSWEEP_DATA"]]["readOnly"]
    assert variables["HOME"] == variables["TMPDIR"]
    assert "readOnly" not in mounts[variables["TMPDIR"]]
    assert {m["name"] for m in mounts.values()} == {v["name"] for v in pod(manifest)["volumes"]}


def start_container(
    url: str, scratch: Path, *, within: tuple[str, ...] = (), **more: str
) -> subprocess.Popen[str]:
    """Start the container's command. Folders of this test replace the pod's volumes."""
    worker = container(job())
    script, *words = worker["args"]
    places = {"/data": scratch / "data", "/artifacts": scratch / "artifacts", "/tmp": scratch}
    variables = {v["name"]: str(places[v["value"]]) for v in worker["env"]}
    for place in places.values():
        place.mkdir(exist_ok=True)
    words = [re.sub(r"=(/\w+)$", lambda found: f"={places[found[1]]}", word) for word in words]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables |= {"FEDSWEEP_DB": url, "PATH": path}
    return subprocess.Popen(
        [*within, *worker["command"], script, *words],
        env=environment(**variables, **more),
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def plan(url: str, tiny: Path, scratch: Path, *changes: str) -> None:
    places = ("--artifacts", str(scratch / "artifacts"))
    at_once("plan", str(tiny), "--db", url, *places, *changes, HOME=str(scratch))


STATES = "SELECT state, count(*) FROM results GROUP BY state ORDER BY state"
ROUNDS = "SELECT count(*) FROM rounds"


@pytest.mark.slow
@pytest.mark.usefixtures("walk_in_test")
def test_a_container_that_is_told_to_stop_is_started_again_and_one_that_ends_is_not(
    postgres_url: str, tiny: Path, tmp_path: Path
) -> None:
    """It gives its trials back and exits with the code that the Job ignores. The next one ends."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    plan(postgres_url, tiny, scratch, "--set", "rounds=1000")
    first = start_container(postgres_url, scratch, **slow_down(tmp_path))
    eventually(lambda: query(postgres_url, ROUNDS)[0][0] >= 4)
    first.terminate()
    output = first.communicate(timeout=120)[0]
    assert first.returncode == STOPPED, output
    assert "stopped: 0 trials finished, 0 failed, 2 given back" in output
    ignored = job()["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert ignored == [STOPPED]
    assert "running" not in dict(query(postgres_url, STATES))
    speed_up(tmp_path)
    second = start_container(postgres_url, scratch)
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 0, output
    assert query(postgres_url, STATES) == [("finished", 6)]


@pytest.mark.usefixtures("walk_in_test")
def test_a_container_that_cannot_work_keeps_the_exit_code_of_its_worker(tmp_path: Path) -> None:
    """Its message is in the log of the pod. The Job counts this code as a failure."""
    failed = start_container("postgresql://user:secret@127.0.0.1:1/none", tmp_path)
    output = failed.communicate(timeout=120)[0]
    assert failed.returncode == 2, output
    assert "cannot be reached" in output
    assert "secret" not in output


READ_ONLY = """
mount --bind "$TMPDIR" "$TMPDIR"
mount -o remount,ro,bind /
if touch "$PROBE" 2>/dev/null; then echo "the root is not read-only"; exit 99; fi
exec unshare --user --map-user=10001 --map-group=10001 -- "$0" "$@"
"""
"""The root file system of a pod: only its volumes can be written, by a user without a name."""


@pytest.mark.slow
def test_the_container_needs_no_root_and_writes_only_to_its_volumes(
    tiny: Path, tmp_path: Path
) -> None:
    """It trains with torch. The user is that of the manifest, and its root is read-only.

    The test takes ten seconds, because real processes train with torch.
    """
    user = pod(job())["securityContext"]["runAsUser"]
    assert f"--map-user={user} " in READ_ONLY
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    url = f"sqlite:///{scratch}/fedsweep.db"  # this user cannot reach the Postgres of the tests
    plan(url, tiny, scratch)
    within = ("unshare", "--mount", "bash", "-c", READ_ONLY)
    ran = start_container(url, scratch, within=within, PROBE=str(tmp_path / "probe"))
    output = ran.communicate(timeout=240)[0]
    if "Operation not permitted" in output:
        pytest.skip(f"this user cannot make a read-only root: {output}")
    assert ran.returncode == 0, output
    assert "fedsweep: " not in output  # no folder was replaced
    assert query(url, STATES) == [("finished", 6)]
    assert not (tmp_path / "probe").exists()
