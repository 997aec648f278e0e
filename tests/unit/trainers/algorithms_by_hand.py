"""Every algorithm by hand: plain loops over state dicts, a deep copy for each client, torch.optim.

It is the twin of `trainers.algorithms`, as `examples/fedavg_by_hand.py` is of FedAvg, and takes the
cohort and the phase from there.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trainers import models
from trainers.config import TrainConfig
from trainers.data.batches import Normalize, local_batches
from trainers.data.dataset import Dataset
from trainers.normalizers import clip_rows, norm_parameters, standardized
from trainers.partition import hold_back, partition

StateDict = dict[str, Tensor]


def algorithm_by_hand(fedavg_by_hand: Any, config: TrainConfig, data: Dataset) -> list[StateDict]:
    """Return the server's state dict after each round, with client m's own state as "clients.m.…".

    `fedavg_by_hand` is the example as a module.
    """
    labels = data.train.labels.numpy()
    clients = [
        hold_back(samples, config, m)[0]
        for m, samples in enumerate(partition(labels, config, data.members))
    ]
    everyone = sum(map(len, clients))
    model = models.build(config, data.channels, data.size, data.classes)
    model.to(memory_format=torch.channels_last)
    server: StateDict = copy.deepcopy(model.state_dict())
    parameters = [name for name, _ in model.named_parameters()]
    affine = {name for name, p in model.named_parameters() if p in norm_parameters(model)}
    statistics = [name for name in server if name not in parameters]
    kept = {"fedbn": [*affine, *statistics], "silobn": statistics}.get(config.normalizer, [])
    own: dict[int, StateDict] = {}
    zero = {name: torch.zeros_like(server[name]) for name in parameters}

    # The state of the algorithms: SCAFFOLD's c and c_i, FedDyn's h and g_k, FedAdam's m and v.
    c, h, m_, v_ = (copy.deepcopy(zero) for _ in range(4))
    if config.server_tau is not None:
        v_ = {name: torch.full_like(value, config.server_tau**2) for name, value in zero.items()}
    c_of: dict[int, StateDict] = {}
    g_of: dict[int, StateDict] = {}
    velocity_of: dict[int, StateDict] = {}
    server_velocity = copy.deepcopy(zero)
    history = []

    for t in range(1, config.rounds + 1):
        cohort = fedavg_by_hand.draw_cohort(config, len(clients), t)
        total = sum(len(clients[i]) for i in cohort)
        average = {name: torch.zeros_like(value) for name, value in server.items()}
        change_c, change_h, average_velocity = (copy.deepcopy(zero) for _ in range(3))

        for i in cohort:
            client = copy.deepcopy(model)
            client.load_state_dict(server | own.get(i, {}))
            frozen = config.freeze_round is not None and t > config.freeze_round
            layer = config.freeze == "layer"
            rest = fedavg_by_hand.set_phase(client, affine, frozen=frozen, layer=layer)
            taught = [name for name in parameters if name not in kept and name not in rest]
            c_i = c_of.setdefault(i, copy.deepcopy(zero))
            g_k = g_of.setdefault(i, copy.deepcopy(zero))

            # The local steps.
            named = dict(client.named_parameters())
            scales = norm_parameters(client)
            optimizer = optimizer_of(config, t, named, scales)
            velocity: StateDict = {}
            if config.momentum == "global":
                velocity = {name: v for name, v in server_velocity.items() if name not in kept}
            if config.momentum in ("local", "global"):
                velocity = velocity | velocity_of.get(i, {})
            for name, value in velocity.items():
                optimizer.state[named[name]]["momentum_buffer"] = value.clone()
            normalize = Normalize(data, next(iter(named.values())).dtype, torch.device("cpu"))
            batches = local_batches(clients[i], config, t, i)
            for batch in batches:
                optimizer.zero_grad()
                logits = client(normalize(data.train.images[batch]))
                nn.functional.cross_entropy(logits, data.train.labels[batch]).backward()
                if config.agc_clip:
                    clip_rows(standardized(client), config.agc_clip)
                if config.clip_norm > 0:
                    nn.utils.clip_grad_norm_(client.parameters(), config.clip_norm)
                with torch.no_grad():
                    for name in taught:
                        p = named[name]
                        assert p.grad is not None
                        if config.algorithm == "fedprox":
                            p.grad.add_(p - server[name], alpha=config.prox_mu)
                        if config.algorithm == "feddyn":
                            p.grad.sub_(g_k[name])
                            p.grad.add_(p - server[name], alpha=config.dyn_alpha)
                optimizer.step()
                if config.algorithm == "scaffold":
                    with torch.no_grad():
                        for name in taught:
                            named[name].add_(c[name] - c_i[name], alpha=-config.lr_in(t))

            # What the client and the server keep of it.
            state = client.state_dict()
            for name in taught:
                moved = state[name] - server[name]
                fraction = len(clients[i]) / everyone
                if config.algorithm == "scaffold":
                    plus = (server[name] - state[name]) / (len(batches) * config.lr_in(t))
                    plus = plus - (c[name] - c_i[name])
                    change_c[name].add_(plus - c_i[name], alpha=fraction)
                    c_i[name] = plus
                if config.algorithm == "feddyn":
                    g_k[name].sub_(moved, alpha=config.dyn_alpha)
                    change_h[name].add_(moved, alpha=fraction)
            for name in server:
                average[name].add_(state[name], alpha=len(clients[i]) / total)
            own[i] = {name: state[name].clone() for name in kept}
            velocity = velocity | {
                name: optimizer.state[p]["momentum_buffer"].clone()
                for name, p in named.items()
                if "momentum_buffer" in optimizer.state[p]
            }
            if config.momentum == "local":
                velocity_of[i] = velocity
            if config.momentum == "global":
                velocity_of[i] = {name: v for name, v in velocity.items() if name in kept}
                for name in taught:
                    average_velocity[name].add_(velocity[name], alpha=len(clients[i]) / total)

        # The server's step, of parameters; it takes the average of all else that is not constant.
        for name in server:
            if name in kept or (frozen and name in statistics) or name in rest:
                continue
            x, a = server[name], average[name]
            if name in parameters:
                server_velocity[name] = average_velocity[name]
            if name in statistics or config.algorithm in ("fedavg", "fedprox"):
                server[name] = a
            elif config.algorithm == "scaffold":
                x.lerp_(a, config.server_lr)
                c[name].add_(change_c[name])
            elif config.algorithm == "feddyn":
                h[name].sub_(change_h[name], alpha=config.dyn_alpha)
                server[name] = torch.sub(a, h[name], alpha=1 / config.dyn_alpha)
            else:
                delta, (b1, b2) = a - x, (config.server_beta1, config.server_beta2)
                m_[name].mul_(b1).add_(delta, alpha=1 - b1)
                if config.algorithm == "fedadam":
                    v_[name].mul_(b2).add_(delta.square(), alpha=1 - b2)
                else:
                    sign = (v_[name] - delta.square()).sign()
                    v_[name].addcmul_(delta.square(), sign, value=-(1 - b2))
                x.addcdiv_(m_[name], v_[name].sqrt() + config.server_tau, value=config.server_lr)
        keepsakes = {f"clients.{i}.{n}": v for i, by in own.items() for n, v in by.items()}
        history.append(copy.deepcopy(server | keepsakes))
    return history


def optimizer_of(
    config: TrainConfig, t: int, named: dict[str, nn.Parameter], scales: set[Tensor]
) -> torch.optim.Optimizer:
    """Return torch's own optimizer of a client in round t, with an empty state."""
    decay = config.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p], "weight_decay": 0.0 if p in scales and not config.decay_norm else decay}
        for p in named.values()
    ]
    lr = config.lr_in(t)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum_factor or 0.0)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    betas = (config.adam_beta1, config.adam_beta2)
    return kind(groups, lr=lr, betas=betas, eps=config.adam_eps)
