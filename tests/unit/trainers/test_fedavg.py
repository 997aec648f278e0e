"""The engine: exact where the mathematics is exact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainers import arms
from tests.unit.trainers.arms import small, trace
from trainers import fedavg, models
from trainers.average import Average
from trainers.data import batches, datasets
from trainers.data.dataset import Dataset
from trainers.normalizers import norm_layers
from trainers.numerics import make_deterministic, numerics
from trainers.partition import hold_back, partition

ARMS = [
    *arms.ARMS,
    {"normalizer": "bn", "momentum": "global", "server_momentum": 0.9},
    {"normalizer": "fedbn", "momentum": "global"},
    {"normalizer": "fixbn", "freeze_round": 2, "momentum": "local"},
    {"normalizer": "hbn", "momentum": "global"},
]
"""Every normalizer and every momentum, and the pairs that carry most from round to round."""


@pytest.fixture(scope="module")
def digits() -> Dataset:
    make_deterministic(1)
    return datasets.load("digits")


@pytest.fixture(scope="module")
def whole(digits: Dataset) -> Callable[[dict[str, Any]], Any]:
    """Return the trace of an arm's trial. It is trained once for the tests that compare to it."""
    traces: dict[str, Any] = {}

    def train(arm: dict[str, Any]) -> Any:
        if repr(arm) not in traces:
            traces[repr(arm)] = trace(small(**arm), digits)
        return traces[repr(arm)]

    return train


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_two_runs_are_bitwise_equal(
    arm: dict[str, Any], digits: Dataset, whole: Callable[[dict[str, Any]], Any]
) -> None:
    """A trial is a function of its configuration."""
    assert trace(small(**arm), digits) == whole(arm)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_the_order_in_which_clients_run_never_shows(
    arm: dict[str, Any], digits: Dataset, whole: Callable[[dict[str, Any]], Any]
) -> None:
    """Descending and shuffled, bit for bit as ascending."""
    chosen = small(**arm)
    shuffle = random.Random(1)

    def shuffled(members: Sequence[int]) -> Sequence[int]:
        return shuffle.sample(members, len(members))

    ascending = whole(arm)
    assert trace(chosen, digits, visit=lambda m: sorted(m, reverse=True)) == ascending
    assert trace(chosen, digits, visit=shuffled) == ascending


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arm", ARMS, ids=str)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_resumed_after_any_round_is_bitwise_the_whole_run(
    arm: dict[str, Any], after: int, digits: Dataset, whole: Callable[[dict[str, Any]], Any]
) -> None:
    """A state is complete: nothing else is remembered."""
    chosen = small(**arm)
    for measured_round in itertools.islice(fedavg.run(chosen, digits), after):
        state = measured_round.state()
    assert trace(chosen, digits, state) == whole(arm)[after:]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: {n: v for n, v in t.items() if n != "server"}, "it has no server"),
        (lambda t: {n: v for n, v in t.items() if n != "server_velocity"}, "no server_velocity"),
        (lambda t: t | {"server": t["server"][:1]}, r"server is torch.float32 \[1\], not \["),
        (lambda t: t | {"server": t["server"].double()}, "server is torch.float64"),
        (lambda t: t | {"velocity.0": t["velocity.0"][1:]}, "velocity.0 is"),
        (lambda t: t | {"own.0": t["velocity.0"]}, "nothing of this trial is called own.0"),
        (lambda t: t | {"velocity.99": t["velocity.0"]}, "called velocity.99"),
        (lambda t: t | {"velocity.x": t["velocity.0"]}, "called velocity.x"),
    ],
)
def test_a_state_of_something_else_is_refused_before_the_first_round(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], why: str, digits: Dataset
) -> None:
    """A copy would stretch it, convert it, or leave half of it as it was."""
    chosen = small(momentum="local", server_momentum=0.9, participation=1.0)
    state = next(fedavg.run(chosen, digits)).state()
    next(fedavg.run(chosen, digits, state))
    with pytest.raises(fedavg.Unfit, match=why):
        next(fedavg.run(chosen, digits, fedavg.State(1, change(state.tensors))))
    with pytest.raises(fedavg.Unfit, match="of round 99"):
        next(fedavg.run(chosen, digits, fedavg.State(99, state.tensors)))


def test_fixbn_is_bn_before_it_freezes_and_bn_to_the_end_where_it_never_does(
    digits: Dataset,
) -> None:
    """Bitwise; the rounds after T* differ."""
    bn = trace(small(normalizer="bn"), digits)
    fixed = trace(small(normalizer="fixbn", freeze_round=2), digits)
    assert fixed[:2] == bn[:2]
    assert all(a[7] != b[7] for a, b in zip(fixed[2:], bn[2:], strict=True))
    assert [row[1] for row in fixed] == ["explore", "explore", "calibrate", "calibrate"]
    assert trace(small(normalizer="fixbn", freeze_round=4), digits) == bn


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("model", "freeze"),
    [
        *itertools.product(["cnn", "resnet20"], ["statistics", "layer"]),
        pytest.param("resnet18", "statistics", marks=pytest.mark.slow),
        pytest.param("resnet18", "layer", marks=pytest.mark.slow),
        ("deeplabv3plus", "statistics"),
        pytest.param("deeplabv3plus", "layer", marks=pytest.mark.slow),
    ],
)
def test_not_one_bit_of_the_statistics_moves_after_the_freeze(
    model: str, freeze: str, digits: Dataset, scenes: Dataset
) -> None:
    """With unequal weights, whose average of equal numbers would round; gamma and beta go on
    training, or rest too. And the frozen model normalizes in the test as in training.
    """
    road = {"dataset": "camvid", "partition": "natural", "augment": False}
    which = scenes if model == "deeplabv3plus" else digits
    chosen = small(
        model=model, normalizer="fixbn", freeze_round=1, freeze=freeze, rounds=3, participation=1.0,
        momentum="global", batch_size=3, **(road if which is scenes else {"clients": 3}),
    )  # fmt: skip
    trial = fedavg._Federation(chosen, which, torch.device("cpu"))
    statistics, affine, weights = [], [], []
    for number in (1, 2, 3):
        trial.train(number, sorted)
        w, p = trial.vector.weights_end, trial.vector.parameters_end
        weights.append(trial.server[:w].clone())
        affine.append(trial.server[w:p].clone())
        statistics.append(trial.server[p:].clone())
    assert len(statistics[0]) > 0
    assert torch.equal(statistics[0], statistics[1])
    assert torch.equal(statistics[0], statistics[2])
    assert torch.equal(affine[0], affine[2]) == (freeze == "layer")
    assert not torch.equal(weights[0], weights[2])

    trial.load()
    with trial.local.without_dropout(), torch.no_grad():
        trained = trial.local.logits(which.train.images[:4])
    trial.model.eval()
    with torch.no_grad():
        assert torch.equal(trained, trial.local.logits(which.train.images[:4]))


def test_frozen_at_zero_means_mean_zero_and_variance_one(digits: Dataset) -> None:
    """T* = 0 freezes the initial statistics."""
    chosen = small(normalizer="fixbn", freeze_round=0, rounds=2)
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    trial.train(1, sorted)
    trial.train(2, sorted)
    trial.vector.values.copy_(trial.server)
    for layer in list(norm_layers(trial.model)):
        assert torch.equal(layer.running_mean, torch.zeros_like(layer.running_mean))
        assert torch.equal(layer.running_var, torch.ones_like(layer.running_var))


@pytest.mark.parametrize("momentum", ["none", "local", "global"])
@pytest.mark.parametrize("decay_norm", [True, False])
def test_one_client_is_torch_s_own_sgd(momentum: str, decay_norm: bool, digits: Dataset) -> None:
    """Three rounds of one client that keeps its momentum are 3 E steps of torch.optim.SGD on the
    same batches, clipping and decay, bit for bit.
    """
    chosen = small(
        clients=1, participation=1.0, rounds=3, local_steps=7, momentum=momentum,
        decay_norm=decay_norm, clip_norm=0.5,
    )  # fmt: skip
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    for number in (1, 2, 3):
        trial.train(number, sorted)

    model = models.build(chosen, 1, 8, 10).to(memory_format=torch.channels_last)
    norms = {p for layer in norm_layers(model) for p in layer.parameters()}
    rest = [p for p in model.parameters() if p not in norms]
    groups = [{"params": rest, "weight_decay": 1e-3}]
    groups.append({"params": sorted(norms, key=id), "weight_decay": 1e-3 if decay_norm else 0.0})
    factor = 0.0 if momentum == "none" else 0.9
    optimizer = torch.optim.SGD(groups, lr=chosen.lr, momentum=factor)
    normalize = batches.Normalize(digits, torch.float32, torch.device("cpu"))
    model.train()
    for number in (1, 2, 3):
        for batch in batches.local_batches(trial.samples[0], chosen, number, 0):
            optimizer.zero_grad()
            logits = model(normalize(digits.train.images[batch]))
            nn.functional.cross_entropy(logits, digits.train.labels[batch]).backward()
            nn.utils.clip_grad_norm_(list(model.parameters()), 0.5)
            optimizer.step()
    ours = trial.vector.named(trial.server)
    for name, torchs in model.state_dict().items():
        assert torch.equal(ours[name], torchs), name


def test_a_round_is_the_weighted_mean_of_its_clients(digits: Dataset) -> None:
    """X = sum (n_m / N) x_m in float64, over weights, gamma, beta and running statistics alike."""
    chosen = small(dtype="float64", partition="shards", shards_per_client=3, validation=0.3)
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    start = trial.server.clone()
    members = fedavg.cohort(chosen, 5, 1)
    sizes = [len(trial.samples[m]) for m in members]
    wanted = torch.zeros_like(start)
    trained, _ = trial.begin(1)
    for m, n in zip(members, sizes, strict=True):
        trial.train_client(1, trial.turn(1, m, 0), trained)
        wanted += n / sum(sizes) * trial.vector.values
    trial.server.copy_(start)
    trial.train(1, sorted)
    assert len(members) == 3
    assert len(set(sizes)) > 1
    assert torch.allclose(trial.server, wanted, rtol=1e-13, atol=1e-15)


def test_a_client_s_weight_is_its_training_samples() -> None:
    """Samples held back for validation do not count."""
    labels = torch.arange(1437).numpy() % 10
    chosen = small(validation=0.25)
    parts = [hold_back(p, chosen, m)[0] for m, p in enumerate(partition(labels, chosen))]
    digits = datasets.load("digits")
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    assert [len(s) for s in trial.samples] == [len(p) for p in parts]
    assert len(trial.validation.labels) == 1437 - sum(map(len, parts))


def test_vectors_fold_in_ascending_order_however_they_come() -> None:
    """0.1 + 0.2 + 0.3 + … in fp32 shows any other order."""
    values = [torch.full((64,), v) * torch.randn(64) for v in (0.1, 1e4, 0.3, 7.0)]
    weights = [0.1, 0.2, 0.3, 0.4]
    wanted = torch.zeros(64)
    for w, x in zip(weights, values, strict=True):
        wanted.add_(x, alpha=w)
    for order in itertools.permutations(range(4)):
        average = Average(weights, wanted)
        for position in order:
            average.add(position, values[position])
        assert torch.equal(average.total, wanted)


def test_cohorts_are_drawn_by_round_and_seed_alone() -> None:
    """Three of five without replacement, ascending; all five where C = 1."""
    chosen = small()
    drawn = [fedavg.cohort(chosen, 5, t) for t in range(1, 30)]
    assert all(len(set(c)) == 3 and c == sorted(c) for c in drawn)
    assert {m for c in drawn for m in c} == set(range(5))
    assert drawn == [fedavg.cohort(small(normalizer="gn", lr=1.0), 5, t) for t in range(1, 30)]
    assert fedavg.cohort(small(participation=1.0), 5, 3) == [0, 1, 2, 3, 4]


def test_the_local_gradient_is_clipped_to_its_bound(digits: Dataset) -> None:
    """Without momentum and decay, a step moves the weights by at most lr * clip_norm."""
    chosen = small(
        clients=1, participation=1.0, local_steps=1, momentum="none", weight_decay=0.0,
        clip_norm=0.01, rounds=1,
    )  # fmt: skip
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    before = trial.server[: trial.vector.parameters_end].clone()
    trial.train(1, sorted)
    moved = (trial.server[: trial.vector.parameters_end] - before).norm()
    assert 0.9 * chosen.lr * 0.01 < float(moved) <= 1.0001 * chosen.lr * 0.01


def test_a_diverging_trial_says_so_and_yields_only_finite_rounds(digits: Dataset) -> None:
    """Silobn at lr = 100, unclipped, seldom tested: the first rounds hold, a later one does not."""
    chosen = small(lr=100.0, clip_norm=0.0, normalizer="silobn", evaluate_every=4)
    states = []
    with pytest.raises(fedavg.Diverged, match="round"):
        states.extend(r.state().tensors for r in fedavg.run(chosen, digits))
    assert len(states) > 0
    assert all(torch.isfinite(tensor).all() for state in states for tensor in state.values())


def test_finite_means_every_element() -> None:
    """One that is not is seen; finite ones whose sum overflows are not mistaken for it."""
    sound = torch.full((8,), 3e38)
    assert fedavg.is_finite(sound)
    for bad in (float("inf"), float("-inf"), float("nan")):
        broken = sound.clone()
        broken[5] = bad
        assert not fedavg.is_finite(broken)
    assert not fedavg.is_finite(torch.tensor([float("inf"), float("-inf")]))


def test_rounds_without_evaluation_hold_none_and_the_last_is_always_tested(
    digits: Dataset,
) -> None:
    """evaluate_every = 3 of 4 rounds: rounds 3 and 4; and the training does not notice."""
    rare = list(fedavg.run(small(evaluate_every=3, validation=0.1), digits))
    often = list(fedavg.run(small(validation=0.1), digits))
    assert [r.test_loss is not None for r in rare] == [False, False, True, True]
    assert [r.validation_accuracy is not None for r in rare] == [False, False, True, True]
    assert [r.train_loss for r in rare] == [r.train_loss for r in often]
    assert rare[3].test_loss == often[3].test_loss


def test_the_score_is_the_mean_over_the_test_set(digits: Dataset) -> None:
    """Against torch's own loss and argmax over all 360 images at once, in float64."""
    chosen = small(dtype="float64", rounds=1)
    trial = fedavg._Federation(chosen, digits, torch.device("cpu"))
    trial.train(1, sorted)
    got = trial.score(digits.test, None)
    trial.vector.values.copy_(trial.server)
    trial.model.eval()
    normalize = batches.Normalize(digits, torch.float64, torch.device("cpu"))
    logits = trial.model(normalize(digits.test.images))
    wanted = nn.functional.cross_entropy(logits, digits.test.labels).item()
    assert got.loss == pytest.approx(wanted, rel=1e-12)
    assert got.accuracy == (logits.argmax(1) == digits.test.labels).sum().item() / 360


def test_fixbn_sends_as_many_bytes_as_bn(digits: Dataset) -> None:
    """FIXBN costs nothing: parameters and statistics of each client of the cohort, both ways."""
    bn = next(fedavg.run(small(normalizer="bn"), digits))
    fixed = next(fedavg.run(small(normalizer="fixbn", freeze_round=0), digits))
    model = models.build(small(), 1, 8, 10)
    elements = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
    assert bn.bytes_up == bn.bytes_down == fixed.bytes_up == fixed.bytes_down == 3 * elements * 4


def test_bfloat16_trains_near_float32_and_keeps_float32_weights(digits: Dataset) -> None:
    """Autocast: the state is float32, the loss within a per cent of float32's."""
    full = list(fedavg.run(small(rounds=2), digits))
    half = list(fedavg.run(small(rounds=2, dtype="bfloat16"), digits))
    assert half[1].state().tensors["server"].dtype == torch.float32
    assert half[1].train_loss != full[1].train_loss
    assert half[1].train_loss == pytest.approx(full[1].train_loss, rel=0.05)


def test_training_learns(digits: Dataset) -> None:
    """Each arm reaches five times chance on digits within four easy rounds."""
    for arm in ARMS:
        chosen = small(**{**arm, "alpha": 100.0, "local_steps": 20, "participation": 0.5})
        accuracies = (done.test_accuracy for done in fedavg.run(chosen, digits))
        assert any(accuracy is not None and accuracy > 0.5 for accuracy in accuracies)


def test_augmentation_is_keyed_and_changes_the_training(image_folder: Any) -> None:
    """Equal twice, different from none."""
    images = datasets.load("imagefolder", image_folder, image_size=32)
    chosen = small(dataset="imagefolder", clients=2, participation=1.0, rounds=2)
    plain = small(dataset="imagefolder", clients=2, participation=1.0, rounds=2, augment=False)
    assert trace(chosen, images) == trace(chosen, images)
    assert trace(chosen, images)[0][2] != trace(plain, images)[0][2]


def test_numerics_name_what_results_are_equal_under() -> None:
    """Dtype and threads among them."""
    make_deterministic(1)
    one = numerics(small(), "cpu")
    assert one["deterministic"] == "True"
    assert one["threads"] == "1"
    assert numerics(small(dtype="float64"), "cpu") != one
