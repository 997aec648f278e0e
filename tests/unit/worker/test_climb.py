"""The number of trials of one GPU, played against a device of known memory and throughput."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedsweep.worker.climb import Climb, Workload

SMALL = Workload("cnn", 20, 10, "float32")
LARGE = Workload("resnet18", 20, 10, "bfloat16")
GB = 10**9
IMAGES = 1000
"""Images of a round."""


@dataclass
class Device:
    """A GPU that trains all its trials equally fast, and a queue of trials."""

    rates: Mapping[int, float]
    """Images per second of all trials, by their number."""
    sizes: Mapping[Workload, int]
    """Bytes of a trial, by its workload."""
    memory: int = 80 * GB
    others: int = 0
    """Bytes that other processes have taken since the climb began."""
    log: list[str] = field(default_factory=list)
    running: dict[int, Workload] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    """Trials that found no memory and were not given back."""
    most: int = 0
    """The most trials that have trained at the same time."""
    now: float = 0.0

    def __post_init__(self) -> None:
        self.climb = Climb(self.memory, self.log.append)
        self.claimed = 0

    def claim(self, workload: Workload) -> bool:
        """Claim a trial and train its first round. Return whether it fits into the memory."""
        trial, self.claimed = self.claimed, self.claimed + 1
        self.climb.begin(trial, workload)
        self.running[trial] = workload
        used = self.others + sum(self.sizes[each] for each in self.running.values())
        if used > self.memory:
            if not self.climb.out_of_memory():
                self.failed.append(trial)
            self.end(trial)
            return False
        self.now += 1000.0  # no first round counts, however long it takes
        self.climb.first_round(trial, self.sizes[workload], self.now)
        self.most = max(self.most, len(self.running))
        return True

    def train(self, rounds: int = 1) -> None:
        """Train rounds of all trials at the same time."""
        n = len(self.running)
        for _ in range(rounds if n else 0):
            began, self.now = self.now, self.now + IMAGES * n / self.rates[n]
            for trial in list(self.running):
                self.climb.add_round(trial, IMAGES, began, self.now)

    def end(self, trial: int) -> None:
        """End a trial."""
        del self.running[trial]
        self.climb.end(trial, self.now)

    def fill(self, *workloads: Workload) -> None:
        """Claim and train from a queue, as many trials as the climb allows, until it is empty."""
        queue = deque(workloads)
        while queue:
            while queue and len(self.running) < self.climb.slots:
                workload = queue.popleft()
                if not self.claim(workload) and self.running:
                    queue.appendleft(workload)
            self.train(20)
            if queue and len(self.running) >= self.climb.slots:
                self.end(min(self.running))
        self.train(20)


@pytest.mark.parametrize(
    ("rates", "end"),
    [
        ({3: 194, 4: 203}, "4 trials train 203 images/s, 4.6% more than 3: stay at 4"),
        ({3: 194, 4: 194}, "4 trials train 194 images/s, 0.0% more than 3: stay at 4"),
        ({3: 194, 4: 190}, "4 trials train 190 images/s, 2.1% less than 3: stay at 3"),
    ],
)
def test_the_climb_ends_when_another_trial_brings_less_than_five_percent(
    rates: Mapping[int, float], end: str
) -> None:
    """The last trial stays unless it costs throughput. Later trials of one kind change nothing."""
    device = Device({1: 100, 2: 180, **rates}, {SMALL: GB})
    device.fill(*[SMALL] * 12)
    assert device.log == [
        "a trial of cnn takes 1 GB: 68 trials fit",
        "1 trial trains 100 images/s: try 2",
        "2 trials train 180 images/s, 80.0% more than 1: try 3",
        "3 trials train 194 images/s, 7.8% more than 2: try 4",
        end,
    ]
    assert device.climb.slots == int(end[-1])
    assert device.most == 4


def test_no_more_trials_are_claimed_than_eight() -> None:
    """Each of them raises the throughput by its whole rate."""
    device = Device({n: 100 * n for n in range(1, 9)}, {SMALL: GB})
    device.fill(*[SMALL] * 12)
    assert device.log[-1] == "8 trials train 800 images/s, 14.3% more than 7: stay at 8, the limit"
    assert device.most == 8


@pytest.mark.parametrize(
    ("size", "fit"), [(22 * GB, 3), (34 * GB, 2), (34 * GB + 1, 1), (79 * GB, 1)]
)
def test_trials_take_at_most_85_percent_of_the_memory(size: int, fit: int) -> None:
    """One trial may always train."""
    device = Device({1: 100, 2: 200, 3: 300}, {SMALL: size})
    device.fill(*[SMALL] * 4)
    assert device.log[0].endswith(f": {fit} trial{'s' * (fit > 1)} fit")
    assert device.log[-1].endswith(f"stay at {fit}, the limit")
    assert device.most == fit


def test_a_throughput_needs_two_seconds_of_whole_later_rounds_of_each_trial() -> None:
    """A round that began before the last first round ended does not count."""
    log: list[str] = []
    climb = Climb(80 * GB, log.append)
    climb.begin(1, SMALL)
    assert climb.slots == 1
    climb.add_round(1, 10**6, 0.0, 9.0)
    climb.first_round(1, GB, 10.0)
    climb.add_round(1, 10**6, 9.0, 12.0)
    climb.add_round(1, 150, 12.0, 13.5)
    assert log[1:] == []
    climb.add_round(1, 50, 13.5, 14.0)
    assert log[1:] == ["1 trial trains 100 images/s: try 2"]
    climb.begin(2, SMALL)
    climb.add_round(1, 10**6, 14.0, 17.0)
    climb.first_round(2, GB, 18.0)
    climb.add_round(1, 10**6, 17.0, 19.0)
    climb.add_round(1, 300, 19.0, 22.0)
    climb.add_round(2, 100, 18.0, 19.9)
    assert log[2:] == []
    climb.add_round(2, 100, 19.9, 20.5)
    assert log[2:] == ["2 trials train 180 images/s, 80.0% more than 1: try 3"]
    assert climb.slots == 3


def test_the_climb_begins_again_when_the_mix_of_trials_changes() -> None:
    """Throughputs of other mixes say nothing about this one. The number itself is kept."""
    device = Device({1: 100, 2: 101, 3: 150, 4: 151}, {SMALL: GB, LARGE: 20 * GB})
    device.fill(*[SMALL] * 4)
    assert device.log[-1] == "2 trials train 101 images/s, 1.0% more than 1: stay at 2"
    device.log.clear()
    device.end(min(device.running))
    device.fill(LARGE, LARGE)
    assert device.log == [
        "a trial of resnet18 takes 20 GB: 3 trials fit",
        "the mix of trials has changed: begin again from 2 trials",
        "2 trials train 101 images/s: try 3",
        "3 trials train 150 images/s, 48.5% more than 2: stay at 3, the limit",
    ]


def test_a_mix_that_begins_with_several_trials_may_need_fewer() -> None:
    """If more trials train fewer images, the climb goes down until fewer trials train fewer."""
    device = Device({1: 100, 2: 200, 3: 300, 4: 301}, {SMALL: GB, LARGE: GB})
    device.fill(*[SMALL] * 6)
    assert device.climb.slots == 4
    device.log.clear()
    device.rates = {1: 100, 2: 150, 3: 140, 4: 130, 5: 120}
    for _ in range(4):
        device.end(min(device.running))
    device.fill(*[LARGE] * 8)
    assert device.log == [
        "a trial of resnet18 takes 1 GB: 68 trials fit",
        "the mix of trials has changed: begin again from 4 trials",
        "4 trials train 130 images/s: try 5",
        "5 trials train 120 images/s, 7.7% less than 4: try 3",
        "3 trials train 140 images/s, 7.7% more than 4: try 2",
        "2 trials train 150 images/s, 7.1% more than 3: try 1",
        "1 trial trains 100 images/s, 33.3% less than 2: stay at 2",
    ]


def test_a_mix_that_begins_at_its_limit_may_need_fewer() -> None:
    """No greater number can be tried, so the climb tries a lesser one. It may be the worse one."""
    device = Device({1: 100, 2: 102}, {SMALL: GB, LARGE: 34 * GB})
    device.fill(*[SMALL] * 3)
    device.log.clear()
    for _ in range(2):
        device.end(min(device.running))
    device.rates = {1: 100, 2: 150}
    device.fill(*[LARGE] * 5)
    assert device.log[1:] == [
        "the mix of trials has changed: begin again from 2 trials",
        "2 trials train 150 images/s: try 1",
        "1 trial trains 100 images/s, 33.3% less than 2: stay at 2, the limit",
    ]
    assert len(device.running) == 2


def test_the_number_of_an_earlier_mix_is_kept() -> None:
    """A mix that comes back is not measured again, and fewer or more trials are claimed at once."""
    device = Device({1: 100, 2: 200, 3: 201}, {SMALL: GB, LARGE: 40 * GB})
    device.fill(*[SMALL] * 5)
    assert device.log[-1] == "3 trials train 201 images/s, 0.5% more than 2: stay at 3"
    for _ in range(3):
        device.end(min(device.running))
    device.fill(*[LARGE] * 3)
    assert device.log[-2:] == [
        "the mix of trials has changed: begin again from 1 trial",
        "1 trial trains 100 images/s: stay at 1, the limit",
    ]
    device.end(min(device.running))
    device.log.clear()
    device.fill(*[SMALL] * 5)
    assert device.log == ["the mix of trials is an earlier one: go on with 3 trials"]
    assert len(device.running) == 3


def test_a_trial_that_is_too_large_alone_limits_no_others_after_it_has_failed() -> None:
    """Before that, it finds no memory while another trial trains."""
    device = Device({1: 100, 2: 200, 3: 201}, {SMALL: GB, LARGE: 81 * GB})
    device.fill(SMALL, LARGE)
    assert device.log[2:] == [
        "out of memory with 2 trials: one is given back, 1 may stay",
        "out of memory with 1 trial: it fails",
    ]
    assert device.failed == [2]
    device.fill(*[SMALL] * 5)
    assert device.log[-1] == "3 trials train 201 images/s, 0.5% more than 2: stay at 3"


def test_a_mix_is_its_models_batch_sizes_cohorts_and_dtypes() -> None:
    """Each of them changes what a trial takes of a GPU."""
    changes: list[dict[str, Any]] = [
        {"model": "resnet20"},
        {"batch_size": 64},
        {"cohort": 5},
        {"dtype": "bfloat16"},
    ]
    for change in changes:
        other = SMALL._replace(**change)
        device = Device({1: 100, 2: 101, 3: 102}, {SMALL: GB, other: GB})
        device.fill(*[SMALL] * 4)
        device.end(min(device.running))
        device.claim(other)
        assert device.log[-1] == "the mix of trials has changed: begin again from 2 trials"


def test_a_trial_that_finds_no_memory_is_given_back_if_others_train() -> None:
    """Another process may take memory. The limit stays when trials of the same kinds end."""
    device = Device({1: 100, 2: 200, 3: 300}, {SMALL: 20 * GB}, others=30 * GB)
    device.fill(*[SMALL] * 6)
    assert device.log == [
        "a trial of cnn takes 20 GB: 3 trials fit",
        "1 trial trains 100 images/s: try 2",
        "2 trials train 200 images/s, 100.0% more than 1: try 3",
        "out of memory with 3 trials: one is given back, 2 may stay",
    ]
    assert device.failed == []
    assert device.climb.slots == 2


def test_the_limit_of_a_full_memory_holds_while_its_trials_train() -> None:
    """The trial is not claimed again while both others train, although the mix has changed."""
    sizes = {SMALL: 20 * GB, LARGE: 21 * GB}
    device = Device({1: 100, 2: 200, 3: 300}, sizes, others=30 * GB)
    device.fill(SMALL, SMALL, LARGE)
    assert device.log[3:] == [
        "out of memory with 3 trials: one is given back, 2 may stay",
        "a trial of resnet18 takes 21 GB: 3 trials fit",
        "the mix of trials has changed: begin again from 2 trials",
        "2 trials train 200 images/s: try 1",
    ]
    assert device.failed == []


def test_a_trial_that_is_too_large_for_the_device_fails() -> None:
    """It trains alone, so no other trial is to blame."""
    device = Device({1: 100}, {LARGE: 81 * GB})
    assert not device.claim(LARGE)
    assert device.failed == [0]
    assert device.log == ["out of memory with 1 trial: it fails"]
    assert device.climb.slots == 1
