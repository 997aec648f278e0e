"""The trials of one process that train together, with made-up claims and a made-up memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedsweep.plans import TrainConfig
from fedsweep.store.claim import Claim
from fedsweep.store.stops import Lack
from fedsweep.worker import climb, company
from fedsweep.worker.company import Company
from fedsweep.worker.kinds import kind_of

CONFIG = TrainConfig(
    dataset="digits", model="cnn", normalizer="bn", clients=4, rounds=6, local_steps=2,
    batch_size=8, lr=0.05, alpha=0.5, seed=0,
).model_dump(exclude_none=True)  # fmt: skip
PATIENCE = 60.0

pytestmark = pytest.mark.timeout(120)


@dataclass
class Memory:
    """A device of 1000 bytes."""

    taken: int = 0
    broken: bool = False
    freed: int = 0

    def total(self) -> int:
        return 1000

    def reserved(self) -> int:
        return self.taken

    def free(self) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.freed += 1


@dataclass
class Waiter:
    """A condition to stop, which counts how often a waiting slot has looked at it."""

    stop: bool = False
    looks: int = 0
    waiting: threading.Event = field(default_factory=threading.Event)
    """Set when the slot has looked twice: it waits."""

    def __call__(self) -> bool:
        self.looks += 1
        if self.looks > 1:
            self.waiting.set()
        return self.stop


@dataclass
class Waiting:
    """A call in a thread of its own."""

    call: Callable[[Waiter], object]
    waiter: Waiter = field(default_factory=Waiter)
    result: object = "it has not returned"

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.result = self.call(self.waiter)

    def waits(self) -> bool:
        return self.waiter.waiting.wait(PATIENCE)

    def value(self) -> object:
        self.thread.join(PATIENCE)
        return self.result


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waiting slots look often, and let a throughput need no time."""
    monkeypatch.setattr(company, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(climb, "MEASURED_SECONDS", 1e-10)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def report() -> list[str]:
    """The decisions on the number of trials."""
    return []


@pytest.fixture
def slots(memory: Memory, report: list[str]) -> Company:
    return company_of(memory, report)


def company_of(memory: Memory, report: list[str], *, alone: int = 0) -> Company:
    def uses_generator(config: TrainConfig) -> bool:
        return config.normalizer == "gn"

    return Company(memory, uses_generator, report.append, alone=alone)  # type: ignore[arg-type]


def claim_of(trial: int = 1, **config: Any) -> Claim:
    return Claim(trial, "0" * 64, 1, CONFIG | config, None, None, 0)


def never() -> bool:
    return False


def claim(slots: Company, slot: int, **config: Any) -> Claim:
    """Let a slot claim a trial."""
    claimed = slots.claim(slot, lambda _passed_over: claim_of(slot + 1, **config), never)
    assert claimed is not None
    return claimed


def train(slots: Company, *numbers: int) -> None:
    """Train a round of some slots. All of them are equally fast."""
    for slot in numbers:
        slots.note_round(slot, 100, 1e-9)


def grow(slots: Company, memory: Memory, trials: int, size: int = 100) -> None:
    """Claim and train so many trials, each of which raises the throughput."""
    for slot in range(trials):
        assert slots.enter(never)
        claim(slots, slot)
        memory.taken += size
        train(slots, slot)
        train(slots, *range(slot + 1))


def test_one_slot_looks_for_a_trial_until_the_climb_allows_two(
    slots: Company, memory: Memory
) -> None:
    """The second slot waits. It enters when the first trial has been measured."""
    assert slots.enter(never)
    second = Waiting(slots.enter)
    assert second.waits()
    claim(slots, 0)
    memory.taken = 100
    train(slots, 0, 0)
    assert second.value() is True


def test_a_slot_that_leaves_lets_another_one_enter(slots: Company) -> None:
    """The number of slots that look for a trial does not grow."""
    assert slots.enter(never)
    second = Waiting(slots.enter)
    assert second.waits()
    slots.leave()
    assert second.value() is True
    third = Waiting(slots.enter)
    assert third.waits()
    third.waiter.stop = True
    assert third.value() is False


def test_a_slot_that_is_to_stop_does_not_enter(slots: Company) -> None:
    """Even if there is room for it."""
    assert not slots.enter(lambda: True)
    assert not slots.begin(lambda: True)


def test_no_slot_begins_after_another_one_found_nothing_left(slots: Company) -> None:
    """Slots that have begun may still enter: they may have a trial to give back."""
    assert slots.begin(never)
    second = Waiting(slots.begin)
    assert second.waits()
    slots.close()
    assert second.value() is False
    slots.leave()
    assert not slots.begin(never)
    assert slots.enter(never)


def test_slots_claim_one_at_a_time(slots: Company, memory: Memory) -> None:
    """Eight threads claim 20 trials each."""
    inside = 0
    most: list[int] = []

    def take(_passed_over: frozenset[Lack]) -> Claim | None:
        nonlocal inside
        inside += 1
        time.sleep(0)  # another thread may run
        most.append(inside)
        inside -= 1
        return None

    threads = [
        threading.Thread(target=lambda n=n: [slots.claim(n, take, never) for _ in range(20)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 160


def test_a_claim_that_fails_does_not_block_the_next_one(slots: Company) -> None:
    """Its error ends its slot, not the others."""

    def fail(_passed_over: frozenset[Lack]) -> Claim:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        slots.claim(0, fail, never)
    assert not slots.has_others(1)
    assert claim(slots, 1).trial == 2


def test_no_trial_is_claimed_while_one_of_unknown_size_is_in_its_first_round(
    slots: Company, memory: Memory, report: list[str]
) -> None:
    """The rise of the memory would be of two trials."""
    claim(slots, 0)
    second = Waiting(lambda stop: slots.claim(1, lambda _: claim_of(2), stop))
    assert second.waits()
    assert not slots.has_others(0)
    memory.taken = 250
    train(slots, 0)
    assert second.value() == claim_of(2)
    assert report == ["a trial of cnn takes 250 B: 3 trials fit"]


def test_a_slot_that_is_to_stop_claims_nothing(slots: Company) -> None:
    """It waited for the first round of another trial."""
    claim(slots, 0)
    second = Waiting(lambda stop: slots.claim(1, lambda _: claim_of(2), stop))
    assert second.waits()
    second.waiter.stop = True
    assert second.value() is None
    assert not slots.has_others(0)


def test_a_trial_that_ends_before_its_first_round_lets_others_claim(slots: Company) -> None:
    """Its size stays unknown."""
    claim(slots, 0)
    second = Waiting(lambda stop: slots.claim(1, lambda _: claim_of(2), stop))
    assert second.waits()
    slots.end(0)
    assert second.value() == claim_of(2)


def test_the_memory_of_two_first_rounds_at_the_same_time_is_of_no_trial(
    slots: Company, memory: Memory, report: list[str]
) -> None:
    """A trial of known size may begin while another one begins. It is not twice as large."""
    grow(slots, memory, 2)
    for slot in range(2):
        slots.end(slot)
    memory.taken = 0
    for slot in range(2):
        claim(slots, slot)
    memory.taken = 200
    train(slots, 0, 1)
    assert [line for line in report if " takes " in line] == [
        "a trial of cnn takes 100 B: 8 trials fit"
    ]


def test_the_memory_of_an_ended_trial_is_given_back(slots: Company, memory: Memory) -> None:
    """Each trial is measured from what its process then holds."""
    claim(slots, 0)
    slots.end(0)
    assert memory.freed == 1
    slots.end(0)
    assert memory.freed == 1


def test_a_broken_device_does_not_hide_the_end_of_a_trial(slots: Company, memory: Memory) -> None:
    """It cannot give memory back. Its attempt has reported the reason."""
    claim(slots, 0)
    memory.broken = True
    slots.end(0)
    assert not slots.has_others(1)


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_trials_that_died_together_train_alone(
    trials: int, memory: Memory, report: list[str]
) -> None:
    """After as many ends of attempts, other slots may enter."""
    slots = company_of(memory, report, alone=trials)
    second: Waiting | None = None
    for slot in range(trials):
        assert slots.enter(never)
        claim(slots, slot)
        memory.taken = 100
        train(slots, slot, slot)
        second = Waiting(slots.enter)
        assert second.waits()
        second.waiter.stop = True
        assert second.value() is False
        slots.end(slot)
        slots.leave()
    assert slots.enter(never)
    assert slots.enter(never)


def test_a_kind_that_uses_the_generator_is_passed_over_while_another_trial_uses_it(
    slots: Company, memory: Memory
) -> None:
    """Other trials may train at the same time."""
    asked: list[frozenset[Lack]] = []

    def take(slot: int, **config: Any) -> Callable[[frozenset[Lack]], Claim]:
        def taken(passed_over: frozenset[Lack]) -> Claim:
            asked.append(passed_over)
            return claim_of(slot + 1, **config)

        return taken

    user = slots.claim(0, take(0, normalizer="gn"), never)
    memory.taken = 100
    train(slots, 0)
    slots.claim(1, take(1), never)
    slots.end(0)
    slots.claim(0, take(0), never)
    assert user is not None
    assert asked == [frozenset(), {kind_of(user)}, frozenset()]
    assert not slots.excludes(0)
    assert not slots.excludes(1)


def test_a_second_trial_that_uses_the_generator_is_excluded(slots: Company, memory: Memory) -> None:
    """Its kind was not known at its claim. The first trial goes on."""
    claim(slots, 0, normalizer="gn")
    memory.taken = 100
    train(slots, 0)
    claim(slots, 1, normalizer="gn", model="resnet20")
    assert slots.excludes(1)
    slots.end(0)
    assert not slots.excludes(1)
    slots.end(1)
    claim(slots, 2)
    assert not slots.excludes(2)


def test_a_trial_that_finds_no_memory_waits_until_another_one_ends(
    slots: Company, memory: Memory
) -> None:
    """It is given back. The last trial of all fails instead."""
    grow(slots, memory, 2)
    assert slots.took_memory_of(1)
    slots.end(1)
    slots.leave()
    second = Waiting(slots.enter)
    assert second.waits()
    slots.end(0)
    slots.leave()
    assert second.value() is True
    claim(slots, 1)
    assert not slots.took_memory_of(1)


def test_a_broken_device_charges_no_trial_if_several_have_trained(
    slots: Company, memory: Memory
) -> None:
    """The first fault leaves the device unusable for all. Its cause is unknown."""
    grow(slots, memory, 2)
    assert slots.may_have_broken_device(0)
    slots.end(0)
    assert slots.may_have_broken_device(1)


def test_a_broken_device_charges_a_trial_that_trained_without_others(slots: Company) -> None:
    """No other trial can be the reason."""
    claim(slots, 0)
    assert not slots.may_have_broken_device(0)
    assert not slots.others_of(0).may_have_broken_device()


def test_a_configuration_that_cannot_be_read_does_not_end_its_slot(
    slots: Company, memory: Memory
) -> None:
    """The trial fails in its attempt, as in a process of its own."""
    assert claim(slots, 0, batch_size="none").trial == 1
    assert slots.others_of(1).exist()
    slots.end(0)
    claim(slots, 0)
    memory.taken = 100
    train(slots, 0, 0)
    assert slots.enter(never)
    assert slots.enter(never)
