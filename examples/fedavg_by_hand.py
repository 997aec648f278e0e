"""FedAvg by hand: the slow, obvious twin of `trainers.fedavg`.

Plain loops over state dicts, a deep copy for each client, torch's own SGD: the pseudocode of the
papers and no more. It shares with the engine what makes a trial (who holds what, which batches, the
first weights, the layers, a round's learning rate) and none of how rounds are computed. Tests hold
the two equal, bit for bit.

    python examples/fedavg_by_hand.py

trains ten clients on digits both ways and prints the two accuracies and their difference.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers import fedavg, models
from trainers.config import TrainConfig
from trainers.data import datasets
from trainers.data.batches import Normalize, crop_and_flip, draw_crops, local_batches
from trainers.data.dataset import Dataset
from trainers.keys import keyed
from trainers.normalizers import (
    NormLayer,
    clip_rows,
    norm_layers,
    norm_parameters,
    standardized,
)
from trainers.numerics import make_deterministic
from trainers.partition import hold_back, partition

StateDict = dict[str, Tensor]


def fedavg_by_hand(config: TrainConfig, dataset: Dataset) -> list[StateDict]:
    """Yield the server's state dict per round, with client m's own state as "clients.m.…"."""
    labels = dataset.train.labels.numpy()
    clients = [
        hold_back(samples, config, m)[0]
        for m, samples in enumerate(partition(labels, config, dataset.members))
    ]
    model = models.build(config, dataset.channels, dataset.size, dataset.classes)
    model.to(memory_format=torch.channels_last)
    server: StateDict = copy.deepcopy(model.state_dict())
    parameters = [name for name, _ in model.named_parameters()]
    affine = {name for name, p in model.named_parameters() if p in norm_parameters(model)}
    statistics = [name for name in server if name not in parameters]

    # What a client keeps of the model, and what momentum leaves behind.
    kept = {
        "fedbn": [*affine, *statistics],
        "silobn": statistics,
        "hbn": [name for name in parameters if name.endswith(".mix")],
    }.get(config.normalizer, [])
    own: dict[int, StateDict] = {}
    own_velocity: dict[int, StateDict] = {}
    zero = {name: torch.zeros_like(server[name]) for name in parameters}
    server_velocity, server_update = copy.deepcopy(zero), copy.deepcopy(zero)
    history = []

    for t in range(1, config.rounds + 1):
        cohort = draw_cohort(config, len(clients), t)
        total = sum(len(clients[m]) for m in cohort)
        average = {name: torch.zeros_like(value) for name, value in server.items()}
        average_velocity = copy.deepcopy(zero)
        moments = mixed(model, server, own, config, dataset, {m: clients[m] for m in cohort})

        for m in cohort:
            # 1. The client takes the server's model, and what it keeps of its own.
            client = copy.deepcopy(model)
            client.load_state_dict(server | own.get(m, {}))
            for layer in layers_with_hooks(client):
                layer.begin_round()
            frozen = config.freeze_round is not None and t > config.freeze_round
            rest = set_phase(client, affine, frozen=frozen, layer=config.freeze == "layer")
            shared = {name: v for name, v in server_velocity.items() if name not in kept}
            velocity = first_velocity(config, zero, shared, own_velocity.get(m, {}))

            # 2. It takes its local steps.
            velocity = train(client, velocity, config, dataset, clients[m], m, t)

            # 3. The server adds what it gets, by the client's share of the samples.
            weight = len(clients[m]) / total
            state = client.state_dict()
            for name in server:
                average[name].add_(state[name], alpha=weight)
            for name in parameters:
                average_velocity[name].add_(velocity[name], alpha=weight)
            own[m] = {name: state[name].clone() for name in kept}
            if config.momentum == "local":
                own_velocity[m] = velocity
            if config.momentum == "global":
                own_velocity[m] = {name: v for name, v in velocity.items() if name in kept}

        # 4. The server takes the average, but for what stays with the clients or is frozen.
        taken = [n for n in server if n not in kept and n not in rest and n not in moments]
        for name in taken if not frozen else [n for n in taken if n not in statistics]:
            if config.server_momentum > 0 and name in parameters:
                update = server_update[name].mul_(config.server_momentum)
                update.add_(server[name]).sub_(average[name])
                server[name].sub_(update)
            else:
                server[name] = average[name]
            if name in parameters:
                server_velocity[name] = average_velocity[name]
        for name, moment in moments.items():
            server[name] = server[name].lerp(moment, 0.002)
        server = after_hooks(model, server)
        # HBN is tested with the statistics of the new average alone.
        tested = mixed(model, server, own, config, dataset, {m: clients[m] for m in cohort})
        history.append(copy.deepcopy(server | tested | keepsakes(own)))
    return history


def first_velocity(
    config: TrainConfig, zero: StateDict, shared: StateDict, own: StateDict
) -> StateDict:
    """Return the velocity with which a client begins a round."""
    velocity = copy.deepcopy(zero)
    if config.momentum == "global":
        velocity |= shared
    if config.momentum in ("local", "global"):
        velocity |= copy.deepcopy(own)
    return velocity


@torch.no_grad()
def mixed(
    model: nn.Module,
    server: StateDict,
    own: dict[int, StateDict],
    config: TrainConfig,
    dataset: Dataset,
    cohort: dict[int, NDArray[np.int64]],
) -> StateDict:
    """Return HBN's M and V of each layer, of the clients' first 64 samples; {} without HBN."""
    if config.normalizer != "hbn":
        return {}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def note(path: str, layer: nn.Module, x: Tensor) -> None:
        """Mix the server's statistics and those of the layer's input."""
        a = layer.mix.sigmoid()
        mean = (1 - a) * layer.running_mean + a * x.mean((0, 2, 3))
        variance = (1 - a) * layer.running_var + a * x.var((0, 2, 3), correction=0)
        found.setdefault(path, []).append((mean, variance))

    batches = {m: torch.from_numpy(samples[:64]) for m, samples in cohort.items()}
    for m, batch in batches.items():
        client = copy.deepcopy(model)
        client.load_state_dict(server | own.get(m, {}))
        client.train()
        for path, layer in client.named_modules():
            if hasattr(layer, "mix"):
                layer.register_forward_pre_hook(
                    lambda layer, inputs, path=path: note(path, layer, inputs[0])
                )
        dtype = next(client.parameters()).dtype
        client(Normalize(dataset, dtype, torch.device("cpu"))(dataset.train.images[batch]))
    sizes = [len(batch) for batch in batches.values()]
    result: StateDict = {}
    for path, pairs in found.items():
        mean, square = (torch.zeros_like(pairs[0][0]) for _ in range(2))
        for n, (m, _) in zip(sizes, pairs, strict=True):
            mean.add_(m, alpha=n)
        mean.div_(sum(sizes))
        for n, (m, v) in zip(sizes, pairs, strict=True):
            square.add_(v, alpha=n).add_((m - mean).square(), alpha=n)
        result[f"{path}.running_mean"] = mean
        result[f"{path}.running_var"] = square / (sum(sizes) - 1)
    return result


def keepsakes(own: dict[int, StateDict]) -> StateDict:
    """Return what the clients keep, client m's as "clients.m.…"."""
    return {f"clients.{m}.{n}": v for m, kept_by in own.items() for n, v in kept_by.items()}


def layers_with_hooks(model: nn.Module) -> list[NormLayer]:
    """Layers that are not torch's: they may change their state before and after a round."""
    return [layer for layer in norm_layers(model) if isinstance(layer, NormLayer)]


def after_hooks(model: nn.Module, server: StateDict) -> StateDict:
    """Let the layers change the server's state, and return it."""
    model.load_state_dict(server)
    for layer in layers_with_hooks(model):
        layer.end_round()
    return copy.deepcopy(model.state_dict())


def draw_cohort(config: TrainConfig, clients: int, t: int) -> list[int]:
    """max(1, floor(C*M + 1/2)) clients without replacement, ascending."""
    drawn = max(1, math.floor(Fraction(str(config.participation or 1)) * clients + Fraction(1, 2)))
    if drawn == clients:
        return list(range(clients))
    return sorted(keyed(config.seed, "cohort", t).permutation(clients)[:drawn].tolist())


def set_phase(client: nn.Module, affine: set[str], *, frozen: bool, layer: bool) -> set[str]:
    """Training mode; after the freeze with constant statistics. Returns the parameters at rest."""
    client.train()
    if not frozen:
        return set()
    for module in norm_layers(client):
        module.eval()
    if not layer:
        return set()
    for name, parameter in client.named_parameters():
        parameter.requires_grad_(name not in affine)
    return affine


def train(
    client: nn.Module,
    velocity: StateDict,
    config: TrainConfig,
    dataset: Dataset,
    samples: object,
    m: int,
    t: int,
) -> StateDict:
    """Train a client by torch's SGD from this velocity. Return the velocity after it."""
    named = dict(client.named_parameters())
    scales = norm_parameters(client)
    optimizer = torch.optim.SGD(
        [
            {
                "params": [p],
                "weight_decay": 0.0
                if p in scales and not config.decay_norm
                else config.weight_decay,
            }
            for p in named.values()
        ],
        lr=config.lr_in(t),
        momentum=config.momentum_factor or 0.0,
    )
    if config.momentum_factor is not None:
        for name, parameter in named.items():
            optimizer.state[parameter]["momentum_buffer"] = velocity[name].clone()
    dtype = next(iter(named.values())).dtype
    normalize = Normalize(dataset, dtype, torch.device("cpu"))

    for step, batch in enumerate(local_batches(samples, config, t, m)):
        images, labels = dataset.train.images[batch], dataset.train.labels[batch]
        if config.augment:
            draw = [keyed(config.seed, "augment", t, m, step)]
            rows, columns = draw_crops(len(batch), dataset.height, dataset.width, draw)
            images = crop_and_flip(images, torch.from_numpy(rows[0]), torch.from_numpy(columns[0]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(client(normalize(images)), labels).backward()
        if config.agc_clip:
            clip_rows(standardized(client), config.agc_clip)
        if config.clip_norm > 0:
            nn.utils.clip_grad_norm_(client.parameters(), config.clip_norm)
        optimizer.step()
    if config.momentum_factor is None:
        return velocity
    return {
        name: optimizer.state[p].get("momentum_buffer", velocity[name]) for name, p in named.items()
    }


def main() -> None:
    """Both ways, side by side."""
    make_deterministic(threads=1)
    digits = datasets.load("digits")
    config = TrainConfig(
        dataset="digits", model="cnn", normalizer="fixbn", freeze_round=4, alpha=0.1, clients=10,
        participation=0.5, rounds=8, local_steps=5, batch_size=20, lr=0.05, momentum="global",
    )  # fmt: skip
    engine = list(fedavg.run(config, digits))[-1]
    by_hand = fedavg_by_hand(config, digits)[-1]
    apart = max(float((by_hand[name] - w).abs().max()) for name, w in engine.weights().items())
    print(f"test accuracy after {config.rounds} rounds: {engine.test_accuracy:.2%}")
    print(f"largest difference between the engine's weights and those by hand: {apart}")


if __name__ == "__main__":
    main()
