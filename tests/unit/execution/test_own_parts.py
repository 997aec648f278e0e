"""Attempts at trials with a model of another package, or with initial weights from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from safetensors.torch import save_file
from sqlalchemy.engine import Engine

from fedsweep.errors import DataMissing, PackageMissing, PlanError
from fedsweep.execution import sizes
from fedsweep.execution.needs import lacking
from fedsweep.execution.packages import pin_code
from fedsweep.execution.place import Place
from fedsweep.execution.weights import pin_weights
from fedsweep.plans import read_plan
from fedsweep.states import Outcome
from fedsweep.store import trial_rows
from fedsweep.store.claim import Claim
from fedsweep.store.tables import trials
from fedsweep.store.transactions import reading
from tests.execution import claim, planned, result, run
from tests.unit.trainers.arms import config
from tests.unit.trainers.offers import offer
from trainers import registry
from trainers.config import ALGORITHM, MODEL, NORMALIZER
from trainers.models import build
from trainers.weight_files import content_hash

pytestmark = [pytest.mark.quick_on("sqlite"), pytest.mark.usefixtures("own_data_folder")]

ONE = ("normalizer=bn", "seed=0")

NET = """
from torch import nn
from trainers.models import Model

def build(channels, size, classes, norm):
    layers = nn.Conv2d(channels, 8, 3, bias=False), norm(8), nn.Flatten(), nn.LazyLinear(classes)
    return nn.Sequential(*layers[:3], nn.Linear(8 * (size - 2) ** 2, classes))

NET = Model(build, uses_generator=False)
WRONG = build
"""
"""A model of another package."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file of a package that offers the models `net` and `wrong`."""
    file = tmp_path / "site" / "net_of_another.py"
    file.parent.mkdir()
    file.write_text(NET)
    monkeypatch.syspath_prepend(file.parent)
    offer(monkeypatch, MODEL.group, net="net_of_another:NET", wrong="net_of_another:WRONG")
    registry.loaded_hash.cache_clear()
    yield file
    sys.modules.pop("net_of_another", None)
    registry.loaded_hash.cache_clear()


def code() -> str:
    """Return the code of the package as it is now. Without metadata it has no name."""
    return f"? {registry.code_hash(EntryPoint('net', 'net_of_another:NET', MODEL.group))}"


def state_of(store: Engine, claimed: Claim) -> tuple[Any, ...]:
    columns = (trials.c.state, trials.c.failure, trials.c.failures, trials.c.losses)
    with reading(store) as c:
        return tuple(c.execute(sa.select(*columns).where(trials.c.id == claimed.trial)).one())


def logged(store: Engine, claimed: Claim) -> str:
    with reading(store) as c:
        return "\n".join(
            row["message"] for row in trial_rows.trial_logs(c, claimed.trial, claimed.fence)
        )


def test_a_trial_of_a_foreign_model_finishes(store: Engine, tiny: Path, package: Path) -> None:
    """Its row has the code that the plan has pinned."""
    del package
    sweep = pin_code(read_plan(tiny, ["model=net", *ONE]))
    assert {trial.config.code for trial in sweep.trials} == {code()}
    assert len({trial.trial_id for trial in sweep.trials}) == len(sweep.trials)
    planned(store, tiny, "model=net", f"code={code()}", *ONE)
    claimed = claim(store)
    assert claimed.trial_id in {trial.trial_id for trial in sweep.trials}
    assert run(store, claimed)[0] is Outcome.FINISHED, result(store, claimed)["error"]
    assert result(store, claimed)["code"] == code()


def test_a_package_that_changes_after_the_plan_is_lacking(
    store: Engine, tiny: Path, package: Path
) -> None:
    """The trial is given back at no cost. The sentence names both codes and the remedy."""
    before = code()
    planned(store, tiny, "model=net", f"code={before}", *ONE)
    package.write_text(NET + "\n")
    claimed = claim(store)
    with pytest.raises(PackageMissing) as missing:
        run(store, claimed)
    assert missing.value.lack == (("code", before),)
    for part in (before, code(), "install the planned code here and start a new worker"):
        assert part in str(missing.value)
    assert state_of(store, claimed) == ("queued", None, 0, 0)
    assert "net_of_another" not in sys.modules


def test_a_worker_goes_on_with_the_code_that_it_has_imported(
    store: Engine, tiny: Path, package: Path
) -> None:
    """A trial that was planned with changed files is left to a new worker."""
    planned(store, tiny, "model=net", f"code={code()}", *ONE)
    assert run(store, claim(store))[0] is Outcome.FINISHED
    package.write_text(NET + "\n")
    planned(store, tiny, "model=net", f"code={code()}", "seed=7", "normalizer=bn")
    claimed = claim(store)
    with pytest.raises(PackageMissing, match="this worker has"):
        run(store, claimed)
    assert state_of(store, claimed) == ("queued", None, 0, 0)


def test_a_package_of_our_parts_alone_has_no_code(tiny: Path, package: Path) -> None:
    """A plan without foreign models is unchanged; a package that is gone cannot be pinned."""
    sweep = read_plan(tiny)
    assert pin_code(sweep) is sweep
    foreign = read_plan(tiny, ["model=net"])
    package.unlink()
    with pytest.raises(PlanError, match="net_of_another:NET, offered as net"):
        pin_code(foreign)


def test_a_foreign_model_of_a_wrong_type_is_bad_data(
    store: Engine, tiny: Path, package: Path
) -> None:
    """It is so on every machine."""
    del package
    planned(store, tiny, "model=wrong", f"code={code()}", *ONE)
    claimed = claim(store)
    run(store, claimed)
    assert state_of(store, claimed)[:2] == ("failed", "bad_data")
    assert "net_of_another:WRONG, offered as wrong, is no Model" in result(store, claimed)["error"]


def test_a_foreign_normalizer_of_a_wrong_type_is_bad_data(
    store: Engine, tiny: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an error of the machine, although the model is ours."""
    del package
    offer(monkeypatch, NORMALIZER.group, wrong="net_of_another:WRONG")
    planned(store, tiny, "normalizer=wrong", "seed=0")
    claimed = claim(store)
    run(store, claimed)
    assert state_of(store, claimed)[:2] == ("failed", "bad_data")
    assert "net_of_another:WRONG, offered as wrong, is no" in result(store, claimed)["error"]


def test_a_plan_refuses_a_package_whose_files_are_gone(
    tiny: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A normalizer is refused too, although its code is not part of the identity."""
    package.unlink()
    for parts in (MODEL, NORMALIZER, ALGORITHM):
        offer(monkeypatch, parts.group, gone="net_of_another:NET")
        sweep = read_plan(tiny, [f"{parts.key}=gone"])
        with pytest.raises(
            PlanError, match="offered as gone, has no Python file: mend the install"
        ):
            pin_code(sweep)


def test_a_foreign_model_that_cannot_be_imported_is_lacking(
    store: Engine, tiny: Path, package: Path
) -> None:
    """Another machine may have what it imports."""
    package.write_text("import no_such_module\n")
    planned(store, tiny, "model=net", f"code={code()}", *ONE)
    claimed = claim(store)
    with pytest.raises(PackageMissing, match="model net cannot be imported .*no_such_module"):
        run(store, claimed)
    assert state_of(store, claimed) == ("queued", None, 0, 0)


def test_the_size_of_a_foreign_model_is_not_known_to_a_plan(tiny: Path, package: Path) -> None:
    """The forecast names it, and counts nothing for it."""
    del package
    configs = [*read_plan(tiny, ["model=net"]).trials.configs, *read_plan(tiny).trials.configs]
    assert sizes.unknown(configs) == ("net",)
    assert sizes.snapshot_bytes(configs[:1]) == 0


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a file of weights for `cnn` and images in ten classes."""
    file = tmp_path / "weights" / "start.safetensors"
    file.parent.mkdir()
    save_file(build(config(seed=9), 1, 8, 10).state_dict(), file)
    return file


def given(file: Path) -> tuple[str, str]:
    return f"pretrained={file.name}", f"pretrained_hash={content_hash(file.name, file.parent)}"


def test_a_trial_starts_from_its_weights_and_says_so(
    store: Engine, tiny: Path, weights: Path
) -> None:
    planned(store, tiny, *given(weights), *ONE)
    claimed = claim(store)
    assert run(store, claimed, Place(data=weights.parent))[0] is Outcome.FINISHED
    assert "pretrained = start.safetensors: 12 tensors are taken" in logged(store, claimed)


def test_weights_that_are_not_here_are_lacking(store: Engine, tiny: Path, weights: Path) -> None:
    """No file, or another one in its place. The trial is given back at no cost."""
    planned(store, tiny, *given(weights), *ONE)
    name, digits = (text.partition("=")[2] for text in given(weights))
    save_file(build(config(seed=8), 1, 8, 10).state_dict(), weights)
    for place, reason in (
        (Place(data=weights.parent), f"and the trial was planned with {digits}: put the planned"),
        (Place(data=weights.parent / "no"), "there is no file .*: put it there"),
        (Place(), "name the folder with --data"),
    ):
        claimed = claim(store)
        with pytest.raises(DataMissing, match=reason) as missing:
            run(store, claimed, place)
        assert missing.value.lack == (("pretrained", name), ("pretrained_hash", digits))
        assert state_of(store, claimed) == ("queued", None, 0, 0)


def test_weights_that_do_not_fit_are_bad_data(store: Engine, tiny: Path, weights: Path) -> None:
    """They are the same on every machine."""
    planned(store, tiny, *given(weights), "model=resnet20", *ONE)
    claimed = claim(store)
    run(store, claimed, Place(data=weights.parent))
    assert state_of(store, claimed)[:2] == ("failed", "bad_data")
    assert (
        "pretrained = start.safetensors does not fit resnet20: the model has no"
        in (result(store, claimed)["error"])
    )


def test_a_worker_names_all_that_it_lacks_before_its_first_claim(package: Path) -> None:
    """Code and weights, each once, for all normalizers."""
    del package
    need = {"dataset": "digits", "fingerprint": None, "model": "net", "code": "? 0", "data": None}
    need |= {"pretrained": "no.safetensors", "pretrained_hash": "0" * 32, "algorithm": None}
    needs = [{**need, "normalizer": name} for name in ("bn", "gn")]
    assert [missing.lack for missing in lacking(needs, None, "cpu")] == [
        (("code", "? 0"),),
        (("pretrained", "no.safetensors"), ("pretrained_hash", "0" * 32)),
    ]
    has = need | {"normalizer": "bn", "code": code(), "pretrained": None}
    assert lacking([has], None, "cpu") == []


def test_a_plan_pins_the_content_of_its_weights(tiny: Path, weights: Path) -> None:
    """Other content makes other trials. A hash that the plan gives is left as it is."""
    changes = [f"pretrained={weights.name}"]
    first = pin_weights(read_plan(tiny, changes), weights.parent)
    assert {trial.config.pretrained_hash for trial in first.trials} == {
        content_hash(weights.name, weights.parent)
    }
    save_file(build(config(seed=8), 1, 8, 10).state_dict(), weights)
    second = pin_weights(read_plan(tiny, [f"pretrained={weights}"]), None)
    plain = pin_weights(read_plan(tiny), None)
    ids = [{trial.trial_id for trial in sweep.trials} for sweep in (first, second, plain)]
    assert len(set.union(*ids)) == 3 * 6
    assert plain.trials == read_plan(tiny).trials
    known = read_plan(tiny, ["pretrained=elsewhere.safetensors", f"pretrained_hash={'0' * 32}"])
    assert pin_weights(known, None) is known


def test_a_plan_refuses_weights_that_it_cannot_read(tiny: Path, weights: Path) -> None:
    """One sentence with the remedy."""
    sweep = read_plan(tiny, [f"pretrained={weights.name}"])
    with pytest.raises(PlanError, match="name the folder with --data or FEDSWEEP_DATA"):
        pin_weights(sweep, None)
    with pytest.raises(PlanError, match="there is no file"):
        pin_weights(sweep, weights.parent / "nowhere")
    weights.write_bytes(b"a pickle")
    with pytest.raises(PlanError, match="is no safetensors file"):
        pin_weights(sweep, weights.parent)
    save_file({}, weights)
    with pytest.raises(PlanError, match="holds no weights"):
        pin_weights(sweep, weights.parent)
