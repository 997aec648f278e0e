"""FedAvg (McMahan et al. 2017), the `seq` engine: clients train one after another.

Round t: a cohort S_t of clients is drawn. Each starts from the server's state x, takes its local
steps of clipped SGD on its own samples and returns x_m. Then x <- sum over m in S_t of
(n_m / N) x_m, with n_m client m's training samples and N their sum over the cohort.

Other algorithms change the local steps and what the server does with that average of the
parameters (see `trainers.algorithms`). The statistics are always averaged so.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from trainers import algorithms, diagnostics, draws, measurements, models
from trainers.algorithms import Turn
from trainers.average import Average
from trainers.client_mix import ClientMix
from trainers.config import ALGORITHMS, NORMALIZERS, TrainConfig
from trainers.data.batches import sampling
from trainers.data.dataset import VOID, Dataset, Split
from trainers.draw_source import DrawSource
from trainers.engines import Diverged, Unfit
from trainers.evaluate import Evaluation, OwnTests, Score, client_accuracy, own_accuracies
from trainers.freeze import AutoFreeze, drift
from trainers.gathered import MOST, Gathered, Statistics, pooled
from trainers.graph import Graphs, graphs_of
from trainers.joint import JointStep
from trainers.lane_operations import Operations
from trainers.local import LocalTraining, Trained
from trainers.measurements import ClientScore
from trainers.momentum import Momentum
from trainers.normalizers import (
    NormLayer,
    find,
    norm_layers,
    norm_parameters,
    set_training,
)
from trainers.own_normalizers import REPEATING, Keeps
from trainers.partition import count_classes, hold_back, partition
from trainers.progress import progress
from trainers.stacked import StackedTraining
from trainers.state import ClientState, ServerState, Stateful, check
from trainers.vector import Vector

Visit = Callable[[Sequence[int]], Sequence[int]]
"""The order in which a cohort's clients are trained; it never shows in a result."""


@dataclass(frozen=True)
class State:
    """All that round `round + 1` needs: keyed randomness leaves no generator to save."""

    round: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Round(measurements.Round):
    """A round as the engine yields it: its measurements, and copies of what it has trained."""

    images: int
    """The images of all local steps. An image counts each time it is used."""
    state: Callable[[], State]
    """Copies the complete state after this round. Call it before the next round is pulled."""
    weights: Callable[[], dict[str, Tensor]]
    """Copies the model by torch's names. Tensors of client m have names that begin with
    "clients.m.". Call it before the next round is pulled.
    """


def run(
    config: TrainConfig,
    data: Dataset,
    state: State | None = None,
    *,
    device: str = "cpu",
    visit: Visit = sorted,
    graphs: Graphs | None = None,
    operations: Operations | None = None,
) -> Iterator[Round]:
    """Train a trial, yielding after each round; from `state`, as if it had never stopped.

    `graphs` launch the steps and the tests; by default, those of a GPU. With `operations`, the
    clients of a round train at the same time (see `trainers.stacked`).

    Raises:
        ValueError: the data hold too few samples for the partition.
        Unfit: the state is none of this trial's; before the first round.
        Diverged: a loss or a weight stopped being finite; the round is not yielded.

    """
    trial = _Federation(config, data, torch.device(device), graphs, operations)
    with closing(trial):
        start = 0
        if state is not None:
            trial.restore(state)
            start = state.round
        for number in range(start + 1, config.rounds + 1):
            began = time.perf_counter()
            measured = trial.train(number, visit)
            trial.check_finite(measured)
            if number % config.evaluate_every == 0 or number == config.rounds:
                measured = trial.evaluate(measured)
            yield replace(measured, seconds=time.perf_counter() - began)


def cohort(config: TrainConfig, clients: int, round: int) -> list[int]:
    """Sample a round's clients: max(1, floor(C*M + 1/2)) of M without replacement, ascending."""
    return draws.cohort(config.seed, clients, config.cohort_size(clients), round)


def is_finite(tensor: Tensor) -> bool:
    """Return whether every element is finite. A finite sum, which is quicker, proves it."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _end_of_shared(vector: Vector, keeps: Keeps) -> int:
    """Return the end of the part of a state vector that the server averages."""
    if keeps == "layer":
        return vector.weights_end
    return vector.parameters_end if keeps == "statistics" else vector.end


@dataclass(frozen=True)
class _Cohort:
    """The clients of one round, ascending, and their weights n_m / N."""

    members: list[int]
    weights: list[float]
    fractions: list[float]
    """n_m / N, with N the samples of all clients."""

    def mean(self, values: Sequence[float]) -> float:
        return math.fsum(w * x for w, x in zip(self.weights, values, strict=True))


class _Federation:
    """A server, its clients' samples, and one model that each client in turn trains.

    The server averages the first `shared` elements of its state vector. Each client keeps the
    elements after them in `own`, from its first round on.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        device: torch.device,
        graphs: Graphs | None = None,
        operations: Operations | None = None,
    ) -> None:
        self.config = config
        self.data = data.to(device)
        self.device = device
        self.graphs = graphs or graphs_of(device)
        labels = data.train.labels.numpy()
        parts = [
            hold_back(p, config, m) for m, p in enumerate(partition(labels, config, data.members))
        ]
        self.samples = [train for train, _ in parts]
        held = torch.from_numpy(np.concatenate([held for _, held in parts]))
        self.has_validation = bool((data.train.labels[held] != VOID).any())
        """True if a held-back sample has a label that is not void."""
        held = held.to(device)
        self.validation = Split(self.data.train.images[held], self.data.train.labels[held])

        shape = data.channels, data.size, data.classes
        self.model = models.build(config, *shape, data.pretrained).to(device)
        self.vector = vector = Vector(self.model, device)
        self.affine = norm_parameters(self.model)
        self.phase: tuple[bool, bool] | None = None
        """The training mode: statistics frozen, whole layers frozen. None after a test."""
        self.foreign = config.normalizer not in NORMALIZERS
        self.keeps = find(config.normalizer).keeps
        self.shared = _end_of_shared(vector, self.keeps)
        self.server = vector.values.clone()
        self.own = ClientState("own", vector.end - self.shared, device)
        self.mix = ClientMix(config, vector, self.keeps)
        self.gathered = Gathered(vector)
        self.layers = [m for m in norm_layers(self.model) if isinstance(m, NormLayer)]
        # The first local step of a round, if all clients of a cohort take it together.
        self.joint = JointStep(self.model) if config.normalizer in REPEATING else None
        self.momentum = Momentum(config, vector.parameters_end, self.shared, self.server)
        self.averaged = min(self.shared, vector.parameters_end)
        """The end of the parameters that the server averages."""
        # Centralized training has no algorithm: its one client's model is the average.
        algorithm = algorithms.find(config.algorithm or ALGORITHMS[0])
        self.algorithm = algorithm(config, self.server[: self.averaged])
        self.draws = DrawSource(sampling(config, data, self.samples), config.rounds)
        self.local = LocalTraining(
            config,
            self.data,
            vector,
            self.model,
            self.momentum,
            self.draws,
            self.algorithm,
            self.graphs,
        )
        self.stacked: StackedTraining | None = None
        if operations is not None:
            self.stacked = StackedTraining(data, self.local, operations)
        self.evaluations: dict[Split, Evaluation] = {}
        self.sums: list[float] = []
        """The sums of all that `changed` returns, after a round."""
        self.auto = AutoFreeze(self.server) if config.freeze_rule == "auto" else None
        self.parts: list[Stateful] = [ServerState(self.server), self.own, self.mix.values]
        self.parts += [self.mix.velocities, self.momentum, self.algorithm]
        if self.auto is not None:
            self.parts.append(self.auto)
        # Centralized training has no clients.
        mixed = self.samples if config.client_accuracy and not config.centralized else []
        self.mixes = count_classes(labels, mixed, data.classes)
        self.own_tests: OwnTests | None = None
        if mixed and config.partition == "natural" and data.test_members is not None:
            self.own_tests = OwnTests(data.test.labels, data.test_members, len(mixed))

    def bytes_a_round(self, vectors: int, numbers: int = 0) -> int:
        """Return the bytes sent per round in one direction: the averaged state, a global velocity,
        so many vectors of the algorithm, the tensors of a joint step, and so many single numbers.
        """
        if self.config.centralized:
            return 0
        elements = self.vector.elements(self.shared) - len(self.mix.places) + numbers
        elements += vectors * self.vector.elements(self.averaged)
        if self.config.momentum == "global":
            elements += self.vector.elements(self.momentum.shared) - len(self.mix.places)
        drawn = self.config.cohort_size(len(self.samples))
        if self.joint is not None and drawn > 1:
            elements += self.joint.elements
        return drawn * elements * self.server.element_size()

    def drawn(self, round: int) -> _Cohort:
        """Return the cohort of a round."""
        members = cohort(self.config, len(self.samples), round)
        sizes = [len(self.samples[m]) for m in members]
        everyone = sum(map(len, self.samples))
        return _Cohort(members, [n / sum(sizes) for n in sizes], [n / everyone for n in sizes])

    def train(self, round: int, visit: Visit) -> Round:
        """Train the whole cohort; return the round without an evaluation and its seconds."""
        with self.stream():
            return self.train_round(round, visit)

    def train_round(self, round: int, visit: Visit) -> Round:
        """Train the whole cohort on the current stream."""
        trained, averaged = self.begin(round)
        before = self.server[self.vector.parameters_end :].clone() if self.auto else None
        drawn = self.drawn(round)
        constants = [view.clone() for view in self.gathered.views(self.server)]
        moments = self.gather_statistics(drawn)
        self.gathered.of_test = None
        joint = self.gather(round, drawn)
        deviation = None
        if self.config.diagnostics:
            deviation = self.gradient_deviation(round, drawn, joint)
        average = Average(drawn.weights, self.server[:averaged])
        end = min(trained, averaged)
        self.momentum.begin_round(drawn.weights, end)
        self.algorithm.begin_round(drawn.fractions, end)
        losses: dict[int, Tensor] = {}
        models: dict[int, Tensor] = {}
        for done in self.trainees(round, drawn, trained, visit, joint):
            losses[done.position] = done.loss
            average.add(done.position, done.values[:averaged])
            self.momentum.end(done.client, done.position, done.velocity)
            if self.shared < self.vector.end:
                self.own[done.client] = done.values[self.shared :].clone()
            self.mix.keep(done.client, done.values, done.velocity)
            if self.config.diagnostics:
                models[done.position] = done.values.clone()
            progress.step()
        self.momentum.end_round()
        self.algorithm.step(self.server[:end], average.total[:end])
        self.server[end:averaged].copy_(average.total[end:])
        self.gathered.move(self.server, constants, moments)
        self.mix.leave(self.server)
        self.end_round()
        if self.auto is not None and before is not None:
            self.watch(self.auto, round, before)
        each, self.sums = self.fetch([losses[i] for i in sorted(losses)], drawn)
        measured = Round(
            round=round,
            phase="calibrate" if self.frozen(round) else "explore",
            train_loss=drawn.mean(each),
            bytes_up=self.bytes_a_round(self.algorithm.sends_up, len(self.gathered.layers)),
            bytes_down=self.bytes_a_round(self.algorithm.sends_down),
            gradient_deviation=deviation,
            images=self.draws.round(round).starts[-1],
            state=lambda: self.state(round),
            weights=lambda: self.weights(round),
        )
        return self.diagnose(measured, [models[i] for i in sorted(models)], drawn.weights)

    def gather(self, round: int, drawn: _Cohort) -> JointStep | None:
        """Return the first local step that the clients take together, with its statistics.

        None if each client takes it on its own. The only client of a cohort does.
        """
        if self.joint is None or len(drawn.members) == 1:
            return None
        batches = self.first_batches(round, drawn)
        self.load()
        self.joint.gather(
            lambda: self.local.weighted_loss(batches, drawn.weights),
            [len(labels) for _, labels in batches],
            drawn.weights,
        )
        progress.step()
        return self.joint

    def gather_statistics(self, drawn: _Cohort) -> Statistics:
        """Return the statistics that the clients gather with the server's model; see
        `trainers.gathered`. The layers are set to training.
        """
        if not self.gathered:
            return []
        found: list[Statistics] = []
        sizes: list[int] = []
        with self.local.without_dropout():
            for client in drawn.members:
                self.load(client)
                samples = torch.from_numpy(self.samples[client][:MOST]).to(self.device)
                images = self.data.train.images[samples]
                found.append(self.gathered.of_client(partial(self.local.logits, images)))
                sizes.append(len(samples))
                progress.step()
        return pooled(found, sizes)

    def prepare_test(self, round: int) -> None:
        """Gather the statistics of a round's test, unless they are there."""
        if self.gathered and self.gathered.of_test is None:
            set_training(self.model, frozen=False)
            self.phase = None
            self.gathered.of_test = self.gather_statistics(self.drawn(round))

    def load_tested(self, client: int | None) -> None:
        """Copy the model that is tested into `vector`: the server's, or a client's."""
        self.load(client)
        constants = self.gathered.views(self.vector.values)
        for constant, statistic in zip(constants, self.gathered.of_test or constants, strict=True):
            constant.copy_(statistic)

    def first_batches(self, round: int, drawn: _Cohort) -> list[tuple[Tensor, Tensor]]:
        """Return the batch of each client's first local step, ascending."""
        return [next(self.local.batches(round, m, limit=1)) for m in drawn.members]

    def trainees(
        self, round: int, drawn: _Cohort, trained: int, visit: Visit, joint: JointStep | None
    ) -> Iterator[Trained]:
        """Train the clients of the cohort, and yield each of them when it is done."""
        if self.stacked is None:
            yield from self.one_by_one(round, drawn, trained, visit, joint)
            return
        assert self.phase is not None
        frozen, layer_frozen = self.phase
        velocities = [self.momentum.first(client) for client in drawn.members]
        yield from self.stacked.train(
            round, drawn.members, self.server, velocities, frozen=frozen, layer_frozen=layer_frozen
        )

    def one_by_one(
        self, round: int, drawn: _Cohort, trained: int, visit: Visit, joint: JointStep | None
    ) -> Iterator[Trained]:
        """Train one client of the cohort after another."""
        places = {client: position for position, client in enumerate(drawn.members)}
        for client in visit(drawn.members):
            turn = self.turn(round, client, places[client])
            loss = self.train_client(round, turn, trained, joint)
            if self.foreign:
                self.vector.check_buffers()
            values, velocity = self.vector.values, self.momentum.velocity
            self.algorithm.end_client(turn, values[: min(trained, self.averaged)])
            yield Trained(turn.position, client, values, velocity, loss)

    def turn(self, round: int, client: int, position: int) -> Turn:
        """Return the part of a client in a round."""
        steps = self.draws.sampling.steps[client]
        return Turn(client, position, steps, self.config.lr_in(round))

    def fetch(self, losses: list[Tensor], drawn: _Cohort) -> tuple[list[float], list[float]]:
        """Return the losses, and the sums that `check_finite` reads, in one copy to the host."""
        tensors = self.changed(drawn)
        sums = [tensor.sum().double() for tensor in tensors]
        numbers = torch.stack([*losses, *sums]).tolist()
        return numbers[: len(losses)], numbers[len(losses) :]

    def changed(self, drawn: _Cohort) -> list[Tensor]:
        """Return the tensors of a round that must be finite: the server's, the layers that the
        clients of its cohort keep, and the algorithm's.
        """
        kept = self.own or self.mix.values
        own = [kept[m] for m in drawn.members] if kept else []
        return [self.server, *own, *self.algorithm.changed(drawn.members)]

    def frozen(self, round: int) -> bool:
        """Return whether the statistics are constants in this round."""
        if self.auto is None:
            return self.config.frozen(round)
        return self.auto.frozen_at is not None and round > self.auto.frozen_at

    def watch(self, auto: AutoFreeze, round: int, before: Tensor) -> None:
        """Give the drift of the statistics in a round of BN to the rule. The rule may then freeze
        them.
        """
        if round < 2 or auto.frozen_at is not None:  # the first comes from no statistics at all
            return
        start = self.vector.parameters_end
        now = self.server.cpu()
        earlier = now.clone()
        earlier[start:] = before
        named = self.vector.named
        auto.note(round, drift(named(earlier, start), named(now, start)))

    def begin(self, round: int) -> tuple[int, int]:
        """Set the model to the round's phase. Return the ends of the trained and averaged parts."""
        frozen = self.frozen(round)
        layer_frozen = frozen and self.config.freeze == "layer"
        trained = self.vector.weights_end if layer_frozen else self.vector.parameters_end
        if self.phase != (frozen, layer_frozen):
            self.phase = (frozen, layer_frozen)
            set_training(self.model, frozen=frozen)
            for parameter in self.affine:
                parameter.requires_grad_(not layer_frozen)
            self.vector.begin_phase()
        # What the phase holds constant is carried over, never averaged: averaging equal numbers
        # would still round them.
        return trained, min(trained, self.shared) if frozen else self.shared

    def train_client(
        self, round: int, turn: Turn, trained: int, joint: JointStep | None = None
    ) -> Tensor:
        """Train a client from its state, in `vector`. Return its mean loss, a scalar."""
        self.load(turn.client)
        for layer in self.layers:
            layer.begin_round()
        self.local.start(turn)
        self.mix.start(turn.client, self.momentum.velocity)
        return self.local.train(round, turn.client, trained, joint)

    def load(self, client: int | None = None) -> None:
        """Copy the server's model, and the client's own layers, into `vector`."""
        self.vector.values.copy_(self.server)
        self.vector.restart_integers()
        if client is not None and client in self.own:
            self.vector.values[self.shared :].copy_(self.own[client])
        if client is not None:
            self.mix.load(client)

    def end_round(self) -> None:
        """Let layers change the averaged state of the server."""
        changing = [m for m in self.layers if type(m).end_round is not NormLayer.end_round]
        if not changing:
            return
        self.load()
        for layer in changing:
            layer.end_round()
        self.server.copy_(self.vector.values)

    def check_finite(self, measured: Round) -> None:
        """Refuse a round with a loss, weight or statistic that is not finite."""
        round = measured.round
        if not math.isfinite(measured.train_loss):
            raise Diverged(f"the training loss of round {round} is {measured.train_loss}")
        if all(map(math.isfinite, self.sums)):
            return
        if not all(map(is_finite, self.changed(self.drawn(round)))):
            raise Diverged(f"a weight or statistic is not finite after round {round}")

    def gradient_deviation(
        self, round: int, drawn: _Cohort, joint: JointStep | None
    ) -> float | None:
        """Return `diagnostics.gradient_deviation`, without changing the running statistics."""
        if self.keeps != "nothing":
            return None
        batches = self.first_batches(round, drawn)
        averaged = torch.zeros_like(self.vector.gradient, dtype=torch.float64)
        sizes = [len(labels) for _, labels in batches]
        with self.local.without_dropout():
            for batch, weight in zip(batches, drawn.weights, strict=True):
                self.load()
                self.local.differentiate(batch, joint)
                averaged.add_(self.vector.gradient.double(), alpha=weight)
                progress.step()
            self.load()
            with nullcontext() if joint is None else joint.pooled(sizes, drawn.weights):
                loss = self.local.weighted_loss(batches, drawn.weights)
            self.vector.differentiate(loss)
        return diagnostics.gradient_deviation(averaged, self.vector.gradient.double())

    def diagnose(
        self, measured: Round, models: Sequence[Tensor], weights: Sequence[float]
    ) -> Round:
        """Add the diagnostics of the cohort's models after their local steps, if they are on."""
        if not self.config.diagnostics:
            return measured
        named = [self.vector.named(model.cpu()) for model in models]
        layers = diagnostics.statistics_mismatch(named, weights)
        parameters = [model[: self.vector.parameters_end] for model in models]
        return replace(
            measured,
            statistics_mismatch=statistics.fmean(layers.values()) if layers else None,
            statistics_mismatch_layers=layers or None,
            client_drift=diagnostics.client_drift(parameters, weights),
        )

    def evaluate(self, measured: Round) -> Round:
        """Return the round with its results on the test images.

        If clients keep layers of their own, each client of the cohort is tested on all images, and
        the results are averaged by training samples. Otherwise the server's model is tested. So it
        is if its statistics are gathered, because then nothing in the test is a client's own.
        """
        with self.stream():
            return self.evaluate_round(measured)

    def evaluate_round(self, measured: Round) -> Round:
        """Return the round with its results, tested on the current stream."""
        round = measured.round
        self.prepare_test(round)
        common = self.keeps == "nothing" or bool(self.gathered)
        drawn = None if common else self.drawn(round)
        models: Sequence[int | None] = drawn.members if drawn else [None]
        mean = drawn.mean if drawn else math.fsum
        tests = [self.score(self.data.test, m) for m in models]
        held = [self.score(self.validation, m) for m in models] if self.has_validation else []
        for name, scores in (("test", tests), ("validation", held)):
            if bad := [s.loss for s in scores if not math.isfinite(s.loss)]:
                raise Diverged(f"the {name} loss of round {round} is {bad[0]}")
        overlaps = [s.miou for s in tests if s.miou is not None]
        if drawn:
            tested = dict(zip(drawn.members, tests, strict=True))
        else:
            tested = dict.fromkeys(range(len(self.samples)), tests[0])
        own = self.own_scores(tested)
        clients = self.client_scores(tested, own) if len(self.mixes) else ()
        each = [client.test_accuracy for client in clients]
        return replace(
            measured,
            test_loss=mean([s.loss for s in tests]),
            test_accuracy=mean([s.accuracy for s in tests]),
            test_miou=mean(overlaps) if overlaps else None,
            validation_loss=mean([s.loss for s in held]) if held else None,
            validation_accuracy=mean([s.accuracy for s in held]) if held else None,
            mean_client_accuracy=statistics.fmean(each) if each else None,
            worst_client_accuracy=min(each, default=None),
            **own_accuracies(list(own.values())),
            clients=clients,
        )

    def client_scores(
        self, tested: Mapping[int, Score], own: Mapping[int, tuple[float | None, int]]
    ) -> tuple[ClientScore, ...]:
        """Return each client's accuracy on its own class mix, of the model tested for it.

        The accuracy on its own test images is added, if it has some.
        """
        accuracies = {m: client_accuracy(s.confusion, self.mixes[m]) for m, s in tested.items()}
        return tuple(
            ClientScore(client, len(self.samples[client]), accuracy, *own.get(client, ()))
            for client, accuracy in accuracies.items()
            if accuracy is not None
        )

    def own_scores(self, tested: Mapping[int, Score]) -> dict[int, tuple[float | None, int]]:
        """Return each client's accuracy on its own test images, and their number."""
        if self.own_tests is None:
            return {}
        of_score: dict[int, list[float | None]] = {}
        scores: dict[int, tuple[float | None, int]] = {}
        for client, score in tested.items():
            # One pass tests a model that clients share.
            if id(score) not in of_score:
                of_score[id(score)] = self.own_tests.accuracies(score.predicted)
            scores[client] = of_score[id(score)][client], self.own_tests.samples[client]
        return scores

    def score(self, split: Split, client: int | None) -> Score:
        """Test the server's model, or a client's."""
        self.load_tested(client)
        self.phase = None
        if split not in self.evaluations:
            local = self.local
            self.evaluations[split] = Evaluation(
                self.model, split, self.data.classes, local.normalize, local.precision, self.graphs
            )
        return self.evaluations[split].score()

    def stream(self) -> AbstractContextManager[None]:
        """Use the stream of the trial's graphs; on a CPU there is none."""
        return nullcontext() if self.graphs is None else self.graphs.use_stream()

    def close(self) -> None:
        """Destroy the trial's graphs, and end the helper process of its draws."""
        self.draws.close()
        if self.graphs is not None:
            self.graphs.close()

    def weights(self, round: int) -> dict[str, Tensor]:
        """Copy the model as it is tested after a round, and the clients' own layers, by name."""
        with self.stream():
            self.prepare_test(round)
            self.load_tested(None)
            named = self.vector.named(self.vector.values.clone())
        for client in self.own:
            self.load(client)
            kept = self.vector.named(self.vector.values, self.shared)
            named |= {f"clients.{client}.{name}": t.clone() for name, t in kept.items()}
        for client in self.mix.values:
            self.load(client)
            named |= {f"clients.{client}.{name}": t for name, t in self.mix.named().items()}
        return {name: t.contiguous().cpu().clone() for name, t in named.items()}

    def state(self, round: int) -> State:
        """Return copies of all tensors that the next round needs."""
        tensors = {name: t for part in self.parts for name, t in part.state().items()}
        return State(round, {name: t.cpu().clone() for name, t in tensors.items()})

    def restore(self, state: State) -> None:
        """Resume from a state.

        Raises:
            Unfit: the state does not belong to this trial.

        """
        if not 0 <= state.round <= self.config.rounds:
            raise Unfit(f"it is of round {state.round}, of {self.config.rounds}")
        check(state.tensors, self.parts, len(self.samples), self.server.dtype)
        for part in self.parts:
            part.restore(state.tensors)
