"""Algorithms: each against its twin by hand, bit for bit, and against its paper's identities."""

from __future__ import annotations

import importlib.util
import itertools
import random
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsweep.plans import TrialSpec
from tests.builders import REPOSITORY
from tests.unit.trainers.algorithms_by_hand import algorithm_by_hand
from tests.unit.trainers.arms import small, trace
from trainers import algorithms, fedavg, registry, seq
from trainers.algorithms.scaffold import Scaffold
from trainers.config import ALGORITHM, ALGORITHMS, TrainConfig
from trainers.data import datasets
from trainers.data.dataset import Dataset
from trainers.numerics import make_deterministic
from trainers.own_algorithms import BY_NAME

OTHERS = [name for name in ALGORITHMS if name != "fedavg"]

PHASES: list[dict[str, Any]] = [
    {"normalizer": "bn"},
    {"normalizer": "fixbn", "freeze_round": 2},
    {"normalizer": "fixbn", "freeze_round": 2, "freeze": "layer"},
    {"normalizer": "gn"},
]

ELSE: list[dict[str, Any]] = [
    {"algorithm": "fedprox", "prox_mu": 0.5, "normalizer": "fedbn"},
    {"algorithm": "fedprox", "prox_mu": 0.5, "momentum": "none", "decay_norm": False},
    {"algorithm": "scaffold", "server_lr": 0.5, "lr_schedule": "cosine", "normalizer": "silobn"},
    {"algorithm": "scaffold", "normalizer": "fedbn", "local_steps": None, "local_epochs": 1},
    {"algorithm": "scaffold", "momentum": "local", "partition": "shards"},
    {"algorithm": "scaffold", "optimizer": "adam", "lr": 0.001},
    {"algorithm": "fedadam", "server_lr": 0.1, "server_beta1": 0.0, "normalizer": "fedbn"},
    {"algorithm": "fedyogi", "server_tau": 0.1, "optimizer": "adamw", "lr": 0.001},
    {"algorithm": "feddyn", "dyn_alpha": 0.5, "normalizer": "fedbn", "momentum": "none"},
    {"algorithm": "feddyn", "momentum": "local", "normalizer": "wn"},
    {"algorithm": "fedavg", "optimizer": "adam", "lr": 0.001},
    {"algorithm": "fedavg", "optimizer": "adam", "lr": 0.001, "decay_norm": False, "adam_eps": 0.1},
    {"algorithm": "fedavg", "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.1},
    {"algorithm": "fedavg", "optimizer": "adamw", "decay_norm": False, "normalizer": "ws"},
    {"algorithm": "fedavg", "optimizer": "adam", "adam_beta1": 0.0, "adam_beta2": 0.5},
    {
        "algorithm": "fedprox",
        "optimizer": "adamw",
        "normalizer": "fixbn",
        "freeze_round": 2,
        "freeze": "layer",
        "dtype": "float64",
    },
]

BETWEEN_ROUNDS: list[dict[str, Any]] = [
    {"normalizer": "bn"},
    {"normalizer": "fixbn", "freeze_round": 2, "freeze": "layer"},
    {"normalizer": "fedbn", "lr_schedule": "cosine"},
    {"normalizer": "gn", "decay_norm": False, "local_steps": None, "local_epochs": 1},
]
"""Phases and clients under which a velocity lives on between rounds."""

ONE_STEP: dict[str, Any] = {
    "local_steps": 1,
    "participation": 1.0,
    "clip_norm": 0.0,
    "dtype": "float64",
    "partition": "dirichlet-class",
    "min_samples": 20,
    "momentum": "none",
    "rounds": 5,
}
"""E = 1, the full cohort, unclipped, without momentum; sizes differ."""


@pytest.fixture(scope="module")
def by_hand() -> Any:
    script = REPOSITORY / "examples" / "fedavg_by_hand.py"
    spec = importlib.util.spec_from_file_location("fedavg_by_hand", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


def assert_equal(by_hand: Any, digits: Dataset, changes: dict[str, Any]) -> None:
    config = small(**changes)
    twin = algorithm_by_hand(by_hand, config, digits)
    for measured, wanted in zip(fedavg.run(config, digits), twin, strict=True):
        weights = measured.weights()
        assert weights.keys() == wanted.keys()
        for name, value in weights.items():
            assert torch.equal(value, wanted[name]), (measured.round, name)


def federation(config: TrainConfig, digits: Dataset) -> Any:
    return fedavg._Federation(config, digits, torch.device("cpu"))


def parameters(config: TrainConfig, digits: Dataset) -> list[Tensor]:
    """Return the server's parameters before the first round and after each round."""
    trial = federation(config, digits)
    end = trial.averaged
    states = [r.state().tensors["server"] for r in fedavg.run(config, digits)]
    return [trial.server[:end].clone(), *(state[:end] for state in states)]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("algorithm", "phase"), list(itertools.product(ALGORITHMS, PHASES)), ids=str
)
def test_an_algorithm_equals_its_twin(
    algorithm: str, phase: dict[str, Any], by_hand: Any, digits: Dataset
) -> None:
    """Every tensor of the server, after each of four rounds of 3 of 5 clients, over T*."""
    assert_equal(by_hand, digits, {**phase, "algorithm": algorithm})


@pytest.mark.one_in(2)
@pytest.mark.parametrize("changes", ELSE, ids=str)
def test_an_algorithm_equals_its_twin_in_all_else(
    changes: dict[str, Any], by_hand: Any, digits: Dataset
) -> None:
    """Other keys, optimizers, kept layers, momentum and clients of unequal steps."""
    assert_equal(by_hand, digits, changes)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("algorithm", "momentum", "changes"),
    [
        pytest.param(*arm, marks=[pytest.mark.slow] if arm[2] != BETWEEN_ROUNDS[0] else [])
        for arm in itertools.product(ALGORITHMS, ("local", "global"), BETWEEN_ROUNDS)
    ],
    ids=str,
)
def test_an_algorithm_with_momentum_between_rounds_equals_its_twin(
    algorithm: str, momentum: str, changes: dict[str, Any], by_hand: Any, digits: Dataset
) -> None:
    """A velocity of the clients, or of the server, for kept layers and layers at rest too."""
    assert_equal(by_hand, digits, {**changes, "algorithm": algorithm, "momentum": momentum})


def test_the_twin_would_show_another_algorithm(by_hand: Any, digits: Dataset) -> None:
    """All algorithms, optimizers and momenta differ from one another after the second round."""
    chosen = [{"algorithm": name} for name in ALGORITHMS]
    chosen += [{"optimizer": name} for name in ("adam", "adamw")]
    chosen += [{"algorithm": name, "momentum": "global"} for name in ALGORITHMS]
    chosen += [{"algorithm": name, "momentum": "local"} for name in ALGORITHMS]
    last = [algorithm_by_hand(by_hand, small(rounds=2, **one), digits)[-1] for one in chosen]
    for one, other in itertools.combinations(last, 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("momentum", ["none", "reset", "local", "global"])
def test_fedprox_without_its_term_is_fedavg(momentum: str, digits: Dataset) -> None:
    """Bit for bit with mu = 0, and at E = 1 for any mu, because a client begins at x."""
    chosen = {"normalizer": "fixbn", "freeze_round": 2, "momentum": momentum}
    plain = trace(small(**chosen), digits)
    assert trace(small(**chosen, algorithm="fedprox", prox_mu=0.0), digits) == plain
    assert trace(small(**chosen, algorithm="fedprox", prox_mu=1.0), digits) != plain
    chosen["local_steps"] = 1
    one = trace(small(**chosen, algorithm="fedprox", prox_mu=1.0), digits)
    assert one == trace(small(**chosen), digits)


def test_fedprox_takes_server_momentum(digits: Dataset) -> None:
    """Its server is FedAvg's."""
    chosen = {"server_momentum": 0.9, "momentum": "global"}
    without = trace(small(**chosen, algorithm="fedprox", prox_mu=0.0), digits)
    assert without == trace(small(**chosen), digits)


@pytest.mark.parametrize("phase", PHASES, ids=str)
def test_scaffold_without_control_variates_is_fedavg(
    phase: dict[str, Any], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, if no client ever replaces its control variate."""
    plain = [row[:7] for row in trace(small(**phase), digits)]
    controlled = [row[:7] for row in trace(small(**phase, algorithm="scaffold"), digits)]
    assert controlled[0] == plain[0]
    assert controlled[2] != plain[2]
    monkeypatch.setattr(Scaffold, "end_client", algorithms.Algorithm.end_client)
    held = [row[:7] for row in trace(small(**phase, algorithm="scaffold"), digits)]
    assert held == plain


@pytest.mark.parametrize("phase", [*PHASES, {"normalizer": "fedbn"}], ids=str)
def test_scaffold_is_fedavg_at_one_step_of_all_clients(
    phase: dict[str, Any], digits: Dataset
) -> None:
    """The corrections of a full cohort sum to zero, for clients of unequal sizes too."""
    plain = parameters(small(**ONE_STEP, **phase), digits)
    controlled = parameters(small(**ONE_STEP, **phase, algorithm="scaffold"), digits)
    for one, other in zip(plain, controlled, strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)
    assert not torch.equal(plain[0], plain[-1])


def test_scaffold_s_control_variates_are_mean_directions(digits: Dataset) -> None:
    """c_i is the client's mean gradient, and c the mean of all c_i by samples, in float64.

    Clients that did not take part count as zero.
    """
    chosen = small(
        dtype="float64", algorithm="scaffold", momentum="none", weight_decay=0.0, clip_norm=0.0
    )
    trial = federation(chosen, digits)
    gradients: dict[int, list[Tensor]] = {}
    plain = trial.local.step

    def spied(*row_and_more: Any) -> Tensor:
        loss: Tensor = plain(*row_and_more)
        gradients.setdefault(trial.now, []).append(trial.vector.gradient.clone())
        return loss

    start = trial.local.start

    def began(turn: algorithms.Turn) -> None:
        trial.now = turn.client
        gradients.pop(turn.client, None)
        start(turn)

    trial.local.step, trial.local.start = spied, began
    total = sum(map(len, trial.samples))
    for t in (1, 2, 3):
        trial.train(t, sorted)
        kept = trial.algorithm.c_of
        for m in trial.drawn(t).members:
            assert torch.allclose(kept[m], torch.stack(gradients[m]).mean(0), atol=1e-12)
        c = sum(len(trial.samples[m]) / total * c_m for m, c_m in kept.items())
        assert torch.allclose(trial.algorithm.c, c, atol=1e-12)
    assert 3 <= len(trial.algorithm.c_of) <= 5


@pytest.mark.parametrize("phase", [{"normalizer": "bn"}, {"normalizer": "gn"}], ids=str)
def test_fedadam_s_first_step_is_torch_s_adam_on_the_pseudo_gradient(
    phase: dict[str, Any], digits: Dataset
) -> None:
    """Torch's Adam corrects its bias, and the paper does not. So torch's begins at a step so late
    that its correction is 1, with v = tau^2. The pseudo-gradient is x - a.
    """
    chosen = small(dtype="float64", **phase)
    before, average = parameters(chosen, digits)[:2]
    x = torch.nn.Parameter(before.clone())
    optimizer = torch.optim.Adam([x], lr=0.3, betas=(0.9, 0.99), eps=1e-3)
    optimizer.state[x] = {
        "step": torch.tensor(1e6),
        "exp_avg": torch.zeros_like(before),
        "exp_avg_sq": torch.full_like(before, 1e-6),
    }
    x.grad = before - average
    optimizer.step()
    adaptive = small(dtype="float64", algorithm="fedadam", server_lr=0.3, **phase)
    _, first = parameters(adaptive, digits)[:2]
    assert torch.allclose(first, x.detach(), rtol=1e-13, atol=1e-15)
    moved = 0.3 * 0.1 * (average - before)
    moved /= (0.99 * 1e-6 + 0.01 * (average - before).square()).sqrt() + 1e-3
    assert torch.allclose(first, before + moved, rtol=1e-13, atol=1e-15)


def test_fedyogi_is_its_formula(digits: Dataset) -> None:
    """Three rounds of Reddi's algorithm 2 in numpy, on the averages that the clients return."""
    chosen = small(dtype="float64", algorithm="fedyogi", server_lr=0.1, server_tau=1e-2, rounds=3)
    trial = federation(chosen, digits)
    twin = federation(small(dtype="float64", rounds=3), digits)
    x = trial.server[: trial.averaged].numpy().copy()
    m, v = np.zeros_like(x), np.full_like(x, 1e-4)
    for t in (1, 2, 3):
        twin.server.copy_(trial.server)
        twin.train(t, sorted)
        trial.train(t, sorted)
        delta = twin.server[: trial.averaged].numpy() - x
        m = 0.9 * m + 0.1 * delta
        v = v - 0.01 * delta**2 * np.sign(v - delta**2)
        x = x + 0.1 * m / (np.sqrt(v) + 1e-2)
        assert np.allclose(trial.server[: trial.averaged].numpy(), x, rtol=1e-12, atol=1e-14)
        assert torch.equal(trial.server[trial.averaged :], twin.server[trial.averaged :])


def test_feddyn_is_its_formulas(digits: Dataset) -> None:
    """The server's h is the mean of all g_k by samples, and x is a - h / alpha, in float64, for
    cohorts of 3 of 5 clients.
    """
    chosen = small(dtype="float64", algorithm="feddyn", dyn_alpha=0.2)
    trial = federation(chosen, digits)
    total = sum(map(len, trial.samples))
    ends: dict[int, Tensor] = {}
    plain = trial.algorithm.end_client

    def spied(turn: algorithms.Turn, values: Tensor) -> None:
        ends[turn.client] = values.clone()
        plain(turn, values)

    trial.algorithm.end_client = spied
    g: dict[int, Tensor] = {}
    for t in (1, 2, 3, 4):
        x = trial.server[: trial.averaged].clone()
        ends.clear()
        trial.train(t, sorted)
        drawn = trial.drawn(t)
        for m, theta in ends.items():
            g[m] = g.get(m, torch.zeros_like(x)) - 0.2 * (theta - x)
            assert torch.allclose(trial.algorithm.g_of[m], g[m], atol=1e-14)
        h = sum(len(trial.samples[m]) / total * g_m for m, g_m in g.items())
        average = sum(w * ends[m] for m, w in zip(drawn.members, drawn.weights, strict=True))
        assert torch.allclose(trial.algorithm.h, h, atol=1e-13)
        assert torch.allclose(trial.server[: trial.averaged], average - h / 0.2, atol=1e-13)


def test_feddyn_s_first_round_of_one_step_is_twice_fedavg_s(digits: Dataset) -> None:
    """With a full cohort it is x - eta g - h / alpha, with h = alpha eta g."""
    chosen = {**ONE_STEP, "rounds": 1}
    before, after = parameters(small(**chosen), digits)
    _, dynamic = parameters(small(**chosen, algorithm="feddyn", dyn_alpha=0.3), digits)
    assert torch.allclose(dynamic - before, 2 * (after - before), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("algorithm", OTHERS)
def test_no_algorithm_touches_the_statistics(algorithm: str, digits: Dataset) -> None:
    """The server's statistics are the average of the clients' by samples, bit for bit, as FedAvg
    averages them. After T* not one bit of them changes.
    """
    changes = {"normalizer": "fixbn", "freeze_round": 2, "algorithm": algorithm}
    trial = federation(small(**changes), digits)
    start = trial.vector.parameters_end
    assert trial.averaged == start < len(trial.server)
    ends: list[Tensor] = []
    plain = trial.one_by_one

    def spied(*arguments: Any) -> Any:
        for done in plain(*arguments):
            ends.append(done.values[start:].clone())
            yield done

    trial.one_by_one = spied
    after = []
    for t in (1, 2, 3, 4):
        ends.clear()
        trial.train(t, sorted)
        after.append(trial.server[start:].clone())
        average = torch.zeros_like(after[-1])
        for weight, statistics in zip(trial.drawn(t).weights, ends, strict=True):
            average.add_(statistics, alpha=weight)
        assert t > 2 or torch.equal(after[-1], average)
    assert not torch.equal(after[0], after[1])
    assert torch.equal(after[1], after[2])
    assert torch.equal(after[1], after[3])
    for name, vector in trial.algorithm.state().items():
        assert len(vector) == start, name


@pytest.mark.parametrize("algorithm", OTHERS)
def test_a_frozen_layer_rests_in_every_algorithm(algorithm: str, digits: Dataset) -> None:
    """Not one bit of scales, shifts and statistics changes after T*, at the server's or in what an
    algorithm keeps for them. The weights are trained.
    """
    changes = {"normalizer": "fixbn", "freeze_round": 2, "freeze": "layer", "participation": 1.0}
    rounds = list(fedavg.run(small(**changes, algorithm=algorithm), digits))
    assert len(rounds) == 4
    trial = federation(small(**changes, algorithm=algorithm), digits)
    w = trial.vector.weights_end
    states = []
    for t in (1, 2, 3, 4):
        trial.train(t, sorted)
        states.append(trial.state(t).tensors)
    for name, tensor in states[3].items():
        assert torch.equal(tensor[w:], states[1][name][w:]), name
    assert not torch.equal(states[3]["server"][:w], states[1]["server"][:w])
    assert not torch.equal(states[1]["server"][w:], states[0]["server"][w:])


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "phase",
    [PHASES[0], *(pytest.param(p, marks=pytest.mark.slow) for p in PHASES[1:-1]), PHASES[-1]],
    ids=str,
)
@pytest.mark.parametrize("algorithm", OTHERS)
def test_an_algorithm_resumes_and_hides_the_order_of_clients(
    algorithm: str, phase: dict[str, Any], digits: Dataset
) -> None:
    """Bit for bit, after any round, and for any order in which the cohort is visited."""
    chosen = small(**phase, algorithm=algorithm, momentum="local")
    whole = trace(chosen, digits)
    for after in (1, 2, 3):
        for done in itertools.islice(fedavg.run(chosen, digits), after):
            state = done.state()
        assert trace(chosen, digits, state) == whole[after:]
    shuffle = random.Random(2)
    assert trace(chosen, digits, visit=lambda m: shuffle.sample(m, len(m))) == whole


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_resumes_with_an_empty_state(optimizer: str, digits: Dataset) -> None:
    """Its state is reset each round, so a snapshot holds only the server's vector."""
    chosen = small(optimizer=optimizer, lr=0.001)
    whole = trace(chosen, digits)
    state = next(fedavg.run(chosen, digits)).state()
    assert list(state.tensors) == ["server"]
    assert trace(chosen, digits, state) == whole[1:]
    assert trace(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == whole


@pytest.mark.parametrize("algorithm", OTHERS)
def test_fixbn_forks_from_the_trunk_of_bn_in_every_algorithm(
    algorithm: str, digits: Dataset
) -> None:
    """The rounds up to T* are equal, and FIXBN continues from BN's state."""
    bn = small(normalizer="bn", algorithm=algorithm)
    fixed = small(normalizer="fixbn", freeze_round=2, algorithm=algorithm)
    whole, trunk = trace(fixed, digits), trace(bn, digits)
    assert whole[:2] == trunk[:2]
    assert whole[2] != trunk[2]
    for done in itertools.islice(fedavg.run(bn, digits), 2):
        state = done.state()
    assert trace(fixed, digits, state) == whole[2:]


def test_a_state_of_another_algorithm_is_refused(digits: Dataset) -> None:
    """A snapshot holds the vectors of its algorithm, by their names."""
    fedadam = next(fedavg.run(small(algorithm="fedadam"), digits)).state()
    assert set(fedadam.tensors) == {"server", "algorithm_mean", "algorithm_variance"}
    scaffold = next(fedavg.run(small(algorithm="scaffold"), digits)).state()
    with pytest.raises(fedavg.Unfit, match="it has no algorithm_control"):
        next(fedavg.run(small(algorithm="scaffold"), digits, fedadam))
    with pytest.raises(fedavg.Unfit, match="nothing of this trial is called algorithm_control"):
        next(fedavg.run(small(), digits, scaffold))


def test_the_vectors_of_a_snapshot_are_those_declared(digits: Dataset) -> None:
    """`plan` tells the disk of a snapshot by them."""
    for name, own in BY_NAME.items():
        state = next(fedavg.run(small(algorithm=name), digits)).state().tensors
        kept = [one for one in state if "." in one]
        assert len(state) - len(kept) - 1 == own.server_vectors, name
        assert len(kept) == 3 * own.client_vectors, name


def test_the_vectors_that_travel_are_counted(digits: Dataset) -> None:
    """SCAFFOLD sends control variates both ways: of the parameters, and not of the statistics."""

    def sent(algorithm: str, **changes: Any) -> tuple[int, int]:
        first = next(fedavg.run(small(rounds=1, algorithm=algorithm, **changes), digits))
        return first.bytes_up // 12, first.bytes_down // 12

    weights, affine, statistics = 288 + 18432 + 2560 + 10, 2 * 96, 2 * 96
    for algorithm in ("fedavg", "fedprox", "fedadam", "fedyogi", "feddyn"):
        assert sent(algorithm) == (weights + affine + statistics,) * 2
    assert sent("scaffold") == (2 * (weights + affine) + statistics,) * 2
    assert sent("scaffold", normalizer="fedbn") == (2 * weights,) * 2
    assert sent("scaffold", momentum="global") == (3 * (weights + affine) + statistics,) * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "fedadam", "server_lr": 1e38, "server_tau": 1e-30},
        {"algorithm": "fedyogi", "server_lr": 1e38, "server_tau": 1e-30},
        {"algorithm": "scaffold", "server_lr": 1e38},
        {"algorithm": "feddyn", "dyn_alpha": 1e30, "momentum": "none"},
        {"algorithm": "fedprox", "prox_mu": 1e30},
    ],
    ids=str,
)
def test_a_diverging_step_fails_as_diverged(changes: dict[str, Any], digits: Dataset) -> None:
    """Within two rounds, and all yielded states are finite."""
    states = []
    with pytest.raises(fedavg.Diverged, match="of round|after round"):
        states.extend(r.state().tensors for r in fedavg.run(small(**changes), digits))
    assert all(torch.isfinite(tensor).all() for state in states for tensor in state.values())


def test_the_correction_comes_after_the_clipping(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An algorithm sees a gradient of at most the bound, and what it adds is not clipped."""
    norms: list[float] = []

    class Pushes(algorithms.Algorithm):
        def correct_gradient(self, gradient: Tensor, values: Tensor) -> None:
            norms.append(float(gradient.norm()))
            gradient[0] += 1000.0

    monkeypatch.setattr(algorithms, "find", lambda _name: Pushes)
    chosen = small(clip_norm=0.01, momentum="none", weight_decay=0.0, rounds=1, local_steps=1)
    before, after = parameters(chosen, digits)
    assert norms
    assert max(norms) <= 0.01 * 1.0001
    assert float((after - before)[0]) == pytest.approx(-1000 * chosen.lr, rel=1e-3)


class Halfway(algorithms.Algorithm):
    """A foreign algorithm: x <- (x + a) / 2, with a vector of its own at each client."""

    def __init__(self, config: TrainConfig, server: Tensor) -> None:
        super().__init__(config, server)
        self.last = self.client_vectors("last")

    def end_client(self, turn: algorithms.Turn, values: Tensor) -> None:
        self.last[turn.client] = torch.zeros_like(self.server)
        self.last[turn.client][: len(values)] = values

    def step(self, server: Tensor, average: Tensor) -> None:
        server.add_(average).div_(2)


NOT_ONE = Halfway.step


def offer(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if an installed package had declared it."""
    point = EntryPoint("halfway", f"{__name__}:{name}", ALGORITHM.group)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [point])
    monkeypatch.setattr(registry, "_names", registry._names.__wrapped__)


def test_another_package_s_algorithm_trains_like_ours(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resumes, the order of clients is hidden, and its keys may be given or left out."""
    offer(monkeypatch, "Halfway")
    chosen = small(algorithm="halfway", server_tau=0.5)
    assert (chosen.server_tau, chosen.server_lr) == (0.5, None)
    assert seq.uses_generator(chosen)  # its code is not known
    assert not any(seq.uses_generator(small(algorithm=name)) for name in ALGORITHMS)
    whole = trace(chosen, digits)
    state = next(fedavg.run(chosen, digits)).state()
    assert any(name.startswith("algorithm_last.") for name in state.tensors)
    assert trace(chosen, digits, state) == whole[1:]
    assert trace(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == whole
    before, after = parameters(small(rounds=1), digits)
    _, half = parameters(small(rounds=1, algorithm="halfway"), digits)
    assert torch.equal(half, before.add(after).div(2))
    with pytest.raises(ValueError, match="server_momentum = 0.5 does not fit halfway"):
        small(algorithm="halfway", server_momentum=0.5)


class Unsure(algorithms.Algorithm):
    """Its check fails."""

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        raise KeyError(config.seed)


def test_a_check_of_an_algorithm_that_fails_is_a_sentence(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the data are used, and with the remedy."""
    offer(monkeypatch, "Unsure")
    sentence = "algorithm = halfway cannot check a trial .KeyError: 0.: correct its package"
    with pytest.raises(ValueError, match=sentence):
        seq.load(small(algorithm="halfway"), None)


def test_a_wrong_offer_of_an_algorithm_is_refused(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that is no Algorithm is refused before the data are used."""
    offer(monkeypatch, "NOT_ONE")
    with pytest.raises(ValueError, match="offered as halfway, is no class that derives from"):
        seq.load(small(algorithm="halfway"), None)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [])
    with pytest.raises(ValueError, match="install it here too"):
        algorithms.find("halfway")


def test_trunks_of_two_algorithms_are_not_shared() -> None:
    """BN and FIXBN of one algorithm have one trunk."""

    def trunk(normalizer: str, **changes: Any) -> str | None:
        return TrialSpec.of(small(normalizer=normalizer, **changes)).trunk

    trunks = set()
    for name in ALGORITHMS:
        bn = trunk("bn", algorithm=name)
        assert bn == trunk("fixbn", freeze_round=2, algorithm=name) is not None
        trunks.add(bn)
    assert len(trunks | {trunk("bn", optimizer="adam")}) == len(ALGORITHMS) + 1


def test_only_clients_that_took_part_have_a_control_variate(digits: Dataset) -> None:
    """One of five takes part in each of two rounds."""
    chosen = small(participation=0.2, rounds=2, algorithm="scaffold")
    kept = list(fedavg.run(chosen, digits))[-1].state().tensors
    drawn = {fedavg.cohort(chosen, 5, t)[0] for t in (1, 2)}
    assert {name for name in kept if "." in name} == {f"algorithm_control.{m}" for m in drawn}
