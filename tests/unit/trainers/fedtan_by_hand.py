"""FedTAN by hand for the model `cnn`: the clients go through its layers together, layer by layer.

Each client has its own copy of the weights, of which one backward pass gives all gradients. It is
the twin of `trainers.joint`, with which it shares no code.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear, max_pool2d

from trainers import models
from trainers.config import TrainConfig
from trainers.data.batches import Normalize, local_batches
from trainers.data.dataset import Dataset
from trainers.partition import hold_back, partition

StateDict = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]

EPS, EMA = 1e-5, 0.1


def joint_gradients(
    server: StateDict, batches: list[Batch], weights: list[float]
) -> tuple[list[StateDict], list[float], StateDict]:
    """Return each client's gradient and loss, and the running statistics after the joint step."""
    names = [name for name in server if "running" not in name]
    copies = [{n: server[n].clone().requires_grad_() for n in names} for _ in batches]
    running: StateDict = {}
    values = [images for images, _ in batches]
    for i in ("1", "2"):
        values = [
            conv2d(x, w[f"conv{i}.weight"], padding=1) for x, w in zip(values, copies, strict=True)
        ]
        mean = sum(p * x.mean((0, 2, 3)) for p, x in zip(weights, values, strict=True))
        assert isinstance(mean, Tensor)
        variance = sum(
            p * (x - mean.view(1, -1, 1, 1)).pow(2).mean((0, 2, 3))
            for p, x in zip(weights, values, strict=True)
        )
        assert isinstance(variance, Tensor)
        count = sum(x.numel() for x in values) // len(mean)
        old_mean, old_variance = (server[f"norm{i}.running_{k}"] for k in ("mean", "var"))
        running[f"norm{i}.running_mean"] = (1 - EMA) * old_mean + EMA * mean.detach()
        unbiased = variance.detach() * count / (count - 1)
        running[f"norm{i}.running_var"] = (1 - EMA) * old_variance + EMA * unbiased
        deviation = (variance + EPS).sqrt().view(1, -1, 1, 1)
        normalized = [(x - mean.view(1, -1, 1, 1)) / deviation for x in values]
        values = [
            max_pool2d(
                (
                    x * w[f"norm{i}.weight"].view(1, -1, 1, 1)
                    + w[f"norm{i}.bias"].view(1, -1, 1, 1)
                ).relu(),
                2,
            )
            for x, w in zip(normalized, copies, strict=True)
        ]
    losses = [
        cross_entropy(linear(x.flatten(1), w["linear.weight"], w["linear.bias"]), labels)
        for x, w, (_, labels) in zip(values, copies, batches, strict=True)
    ]
    total = sum(p * loss for p, loss in zip(weights, losses, strict=True))
    assert isinstance(total, Tensor)
    total.backward()
    gradients: list[StateDict] = []
    for p, own in zip(weights, copies, strict=True):
        gradients.append(
            {name: leaf.grad / p for name, leaf in own.items() if leaf.grad is not None}
        )
    return gradients, [float(loss.detach()) for loss in losses], running


def alone_gradient(state: StateDict, batch: Batch) -> tuple[StateDict, float]:
    """Return a client's gradient and loss with BN. The running statistics in `state` move."""
    leaves = {n: t.clone().requires_grad_() for n, t in state.items() if "running" not in n}
    x = batch[0]
    for i in ("1", "2"):
        x = conv2d(x, leaves[f"conv{i}.weight"], padding=1)
        x = batch_norm(
            x,
            state[f"norm{i}.running_mean"],
            state[f"norm{i}.running_var"],
            leaves[f"norm{i}.weight"],
            leaves[f"norm{i}.bias"],
            training=True,
        )
        x = max_pool2d(x.relu(), 2)
    logits = linear(x.flatten(1), leaves["linear.weight"], leaves["linear.bias"])
    loss = cross_entropy(logits, batch[1])
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True)), float(loss.detach())


def step(
    state: StateDict, gradient: StateDict, velocity: StateDict, config: TrainConfig, lr: float
) -> None:
    """Clip a gradient, add the weight decay, and step with momentum."""
    norm = sum(float(slope.pow(2).sum()) for slope in gradient.values()) ** 0.5
    factor = min(1.0, config.clip_norm / (norm + 1e-6)) if config.clip_norm > 0 else 1.0
    for name, slope in gradient.items():
        direction = slope * factor + config.weight_decay * state[name]
        if config.momentum_factor is not None:
            velocity[name] = config.momentum_factor * velocity[name] + direction
            direction = velocity[name]
        state[name] = state[name] - lr * direction


def fedtan_by_hand(config: TrainConfig, data: Dataset, draw_cohort: Any) -> list[StateDict]:
    """Return the server's state after each round, and each round's mean training loss as "loss"."""
    labels = data.train.labels.numpy()
    clients = [hold_back(s, config, m)[0] for m, s in enumerate(partition(labels, config))]
    model: nn.Module = models.build(config, data.channels, data.size, data.classes)
    server: StateDict = copy.deepcopy(dict(model.state_dict()))
    normalize = Normalize(data, torch.float64, torch.device("cpu"))
    kept: dict[int, StateDict] = {}
    shared = {name: torch.zeros_like(t) for name, t in server.items()}
    history = []
    for t in range(1, config.rounds + 1):
        cohort = draw_cohort(config, len(clients), t)
        total = sum(len(clients[m]) for m in cohort)
        weights = [len(clients[m]) / total for m in cohort]
        drawn = {
            m: [
                (normalize(data.train.images[b]), data.train.labels[b].long())
                for b in local_batches(clients[m], config, t, m)
            ]
            for m in cohort
        }
        first = [drawn[m][0] for m in cohort]
        gradients, losses, running = joint_gradients(server, first, weights)
        new = {name: torch.zeros_like(tensor) for name, tensor in server.items()}
        new_velocity = {name: torch.zeros_like(tensor) for name, tensor in server.items()}
        mean_loss = 0.0
        for m, p, gradient, loss in zip(cohort, weights, gradients, losses, strict=True):
            state = copy.deepcopy(server | running)
            velocity = {name: torch.zeros_like(tensor) for name, tensor in server.items()}
            if config.momentum == "local":
                velocity = kept.get(m, velocity)
            if config.momentum == "global":
                velocity = copy.deepcopy(shared)
            step(state, gradient, velocity, config, config.lr_in(t))
            of_steps = [loss]
            for batch in drawn[m][1:]:
                slopes, one = alone_gradient(state, batch)
                step(state, slopes, velocity, config, config.lr_in(t))
                of_steps.append(one)
            kept[m] = velocity
            mean_loss += p * sum(of_steps) / len(of_steps)
            for name in server:
                new[name] += p * state[name]
                new_velocity[name] += p * velocity[name]
        server, shared = new, new_velocity
        history.append(
            {**copy.deepcopy(server), "loss": torch.tensor(mean_loss, dtype=torch.float64)}
        )
    return history
