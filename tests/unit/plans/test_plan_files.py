"""The plan file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsweep.errors import PlanError
from fedsweep.fields import config_columns
from fedsweep.plans import Budget, SweepSpec, pinned, read_plan
from tests.builders import TINY


def test_blocks_are_crossed_and_joined(tiny: Path) -> None:
    """2 x 2 trials of the first block, 2 of the second, in the order of the file."""
    sweep = read_plan(tiny)
    assert sweep.name == "tiny"
    chosen = [(t.config.normalizer, t.config.freeze_round, t.config.seed) for t in sweep.trials]
    assert chosen == [
        ("bn", None, 0),
        ("bn", None, 1),
        ("gn", None, 0),
        ("gn", None, 1),
        ("fixbn", 1, 0),
        ("fixbn", 1, 1),
    ]


def test_duplicates_fall_together(tiny: Path) -> None:
    """A block again, and an axis that is meaningless elsewhere: no trial twice."""
    tiny.write_text(TINY + '[[grid]]\nnormalizer = "bn"\nfreeze_round = [0, 1]\nseed = [0, 1]\n')
    assert len(read_plan(tiny).trials) == 6


def test_without_a_grid_the_protocol_is_one_trial(tiny: Path) -> None:
    """Any axis may be a protocol key."""
    tiny.write_text(TINY.partition("[[grid]]")[0] + 'normalizer = "bn"\nseed = 4\n')
    assert [t.config.seed for t in read_plan(tiny).trials] == [4]


def test_a_grid_s_value_goes_before_the_protocol_s(tiny: Path) -> None:
    """Any protocol key may be an axis instead."""
    tiny.write_text(TINY + '[[grid]]\nnormalizer = "gn"\nlr = [0.1, 0.2]\n')
    assert {t.config.lr for t in read_plan(tiny).trials} == {0.05, 0.1, 0.2}


@pytest.mark.parametrize(
    ("written", "rounds"),
    [('"25%"', 3), ('"50%"', 5), ('"12.5%"', 1), ('"0%"', 0), ('"100%"', 10), ("7", 7), ("7.0", 7)],
)
def test_a_freeze_round_is_rounds_or_a_share(written: str, rounds: int, tiny: Path) -> None:
    """T is 10 here. Fractions of it are rounded half up."""
    tiny.write_text(TINY.replace("freeze_round = 1", f"freeze_round = {written}"))
    sweep = read_plan(tiny, ["rounds=10.0"])
    assert sweep.trials[-1].config.freeze_round == rounds


@pytest.mark.parametrize("section", ["protocol", "grid", "grid list"])
def test_set_replaces_an_invalid_value_of_any_key(section: str, tiny: Path) -> None:
    """The plan's value of an overridden key is not checked, in [protocol] and in [[grid]]."""
    config = read_plan(tiny).trials[0].config
    for key, value in config.model_dump(exclude_none=True).items():
        invalid = '["?", "??"]' if section == "grid list" else '"?"'
        head, _, grids = TINY.partition("[[grid]]")
        lines = [f"{key} = {invalid}" if line.startswith(f"{key} =") else line
                 for line in f"{head}[[grid]]{grids}".splitlines()]  # fmt: skip
        text = "\n".join(lines)
        if f"{key} = {invalid}" not in text:
            place = "[protocol]" if section == "protocol" else "[[grid]]"
            text = text.replace(place, f"{place}\n{key} = {invalid}")
        tiny.write_text(text)
        with pytest.raises(PlanError, match=key):
            read_plan(tiny)
        sweep = read_plan(tiny, [f"{key}={json.dumps(value)}"])
        assert {getattr(trial.config, key) for trial in sweep.trials} == {value}


def test_set_replaces_an_empty_axis_and_what_a_search_needs(tiny: Path) -> None:
    """An empty list and a validation share that the search refuses are replaced too."""
    tiny.write_text(TINY.replace("seed = [0, 1]", "seed = []"))
    assert {t.config.seed for t in read_plan(tiny, ["seed=3"]).trials} == {3}
    search = TINY.replace("freeze_round = 1\n", "") + "[search]\nprobes_per_arm = 2\n"
    tiny.write_text(search.replace("alpha = 0.5", "alpha = 0.5\nvalidation = 7"))
    (arm,) = read_plan(tiny, ["validation=0.1"]).arms
    assert arm.config.validation == 0.1


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("lr=fast", '--set lr = "fast" cannot be used'),
        ("rounds=0", "--set rounds = 0 cannot be used"),
        ("momentum=locl", "did you mean local?"),
        ("algorithm=fedadm", "did you mean fedadam?"),
        ("optimizer=rmsprop", '--set optimizer = "rmsprop" is none of sgd, adam, adamw'),
        ("server_tau=0", "--set server_tau = 0 cannot be used"),
        ("freeze_round=4", "(--set freeze_round=4)"),
        ("name=second", "so change name in the plan file"),
    ],
)
def test_a_wrong_value_of_set_is_named_as_such(override: str, named: str, tiny: Path) -> None:
    """Also if it is only wrong next to another value."""
    with pytest.raises(PlanError) as refused:
        read_plan(tiny, [override])
    assert named in str(refused.value)
    assert "--set" in str(refused.value)


def test_set_fixes_a_key_everywhere(tiny: Path) -> None:
    """Over the protocol and over axes; bare words need no quotes; the kept text says so."""
    sweep = read_plan(tiny, ["seed=7", "normalizer=gn", "lr=0.1"])
    assert [(t.config.seed, t.config.normalizer, t.config.lr) for t in sweep.trials] == [
        (7, "gn", 0.1)
    ]
    assert "# --set seed=7" in sweep.text


WRONG = [
    ("alpha = 0.5", 'alpha = 0.5\nalgorithm = "avg"', "is none of fedavg, fedprox, scaffold"),
    (
        "alpha = 0.5",
        'alpha = 0.5\nalgorithm = "feddyn"\nserver_momentum = 0.9',
        "server_momentum = 0.9 does not fit feddyn",
    ),
    (
        "alpha = 0.5",
        'alpha = 0.5\noptimizer = "adam"\nmomentum = "local"',
        "momentum = local is SGD's",
    ),
    (
        "alpha = 0.5",
        'alpha = 0.5\nalgorithm = "fedprox"\nprox_mu = 1e40',
        "prox_mu = 1e+40 is more than float32 weights can hold",
    ),
    (
        "lr = 0.05",
        "lrr = 0.05",
        "[protocol] lrr is not a key that fedsweep knows: did you mean lr?",
    ),
    (
        '["bn", "gn"]',
        '["bn", "gnn"]',
        '[[grid]] normalizer = "gnn" is none of bn, fixbn, gn, ln, in, wn, none, fedbn, silobn, ws',
    ),
    (
        '["bn", "gn"]',
        '["bn", "gnn"]',
        "did you mean gn? Otherwise install the package that offers it",
    ),
    (
        "lr = 0.05",
        "learning_rate = 0.05",
        "learning_rate is not a key that fedsweep knows: did you mean lr?",
    ),
    ('["bn", "gn"]', '["bn", "GroupNorm"]', "did you mean gn? Otherwise install"),
    ('["bn", "gn"]', '["bn", "weight_normalization"]', "did you mean wn? Otherwise install"),
    ('["bn", "gn"]', '["bn", "InstanceNorm2d"]', "did you mean in? Otherwise install"),
    ("lr = 0.05", "fraction_fit = 0.05", "did you mean participation?"),
    ('dataset = "digits"', 'dataset = "zzz"', ": install the package that offers it"),
    (
        "alpha = 0.5",
        "alpha = -0.5",
        "[protocol] alpha = -0.5 cannot be used: input should be greater than 0",
    ),
    (
        "freeze_round = 1",
        "freeze_round = 4",
        "freeze_round = 4 lies after the last round (rounds = 3)",
    ),
    ("freeze_round = 1", 'freeze_round = "150%"', "does not lie between 0% and 100%"),
    ("freeze_round = 1", 'freeze_round = "half"', '"half" is not a share'),
    ("freeze_round = 1", "freeze_round = 0.5", "0.5 is not a round"),
    ("freeze_round = 1", "freeze_round = -1", "greater than or equal to 0"),
    ("freeze_round = 1\n", "", "fixbn needs a freeze_round"),
    ("alpha = 0.5\n", "", "a Dirichlet partition needs an alpha"),
    ("lr = 0.05\n", "", "lr is missing"),
    ("clients = 4\n", "", "clients is missing: set it in [protocol] or a [[grid]] block"),
    ("local_steps = 2\n", "", "local_steps needs a value (or local_epochs, instead)"),
    ("local_steps = 2", "local_steps = 2\nlocal_epochs = 1", "exclude each other"),
    ("lr = 0.05", 'lr = 0.05\nlr_schedule = "step"', "needs an lr_step"),
    ("lr = 0.05", 'lr = 0.05\nlr_schedule = "cos"', "did you mean cosine?"),
    ('model = "cnn"', 'model = "deeplabv3plus"', "does not fit digits: choose cnn"),
    ("alpha = 0.5", 'partition = "natural"', "digits has no groups of its own"),
    (
        "alpha = 0.5",
        'partition = "shards"\nshards_per_client = 500',
        "2000 shards are more than the 1437",
    ),
    ("lr = 0.05", "lr = [0.05]", "[protocol] lr is a list: move it to a [[grid]] block"),
    ("seed = [0, 1]", "seed = []", "[[grid]] seed is an empty list"),
    ("seed = [0, 1]", "seed = [0, -1]", "[[grid]] seed = -1 cannot be used"),
    (
        "[protocol]",
        "[protocoll]",
        "protocoll is not a key that fedsweep knows: did you mean protocol?",
    ),
    ('name = "tiny"', "", "name must be"),
    ('name = "tiny"', 'name = "a/b"', "name must be"),
    ('name = "tiny"', 'name = ".."', 'and not "." or ".." alone'),
    ('name = "tiny"', 'name = "-x"', 'and not "." or ".." alone'),
    ("[[grid]]", "[grid]", "not valid TOML"),
    ("rounds = 3", "rounds = ", "not valid TOML"),
    (
        'name = "tiny"',
        'name = "tiny"\n[search]\nprobes_per_arm = 3',
        "[search] has nothing to search: leave freeze_round out of a fixbn [[grid]] block",
    ),
    ("lr = 0.05", "lr = nan", "finite number"),
    ("freeze_round = 1", 'freeze_round = "nan%"', "does not lie between"),
    ("seed = [0, 1]", "seed = 9223372036854775808", "less than or equal to"),
    ("lr = 0.05", f"lr = {'[' * 3000}", "not valid TOML"),
    ("rounds = 3", f"rounds = {'9' * 5000}", "not valid TOML"),
    ("batch_size = 8", "batch_size = 8.5", "valid integer"),
    ("lr = 0.05", "lr = 1e39", "lr = 1e+39 is more than float32 weights can hold: lower lr"),
    ("lr = 0.05", "lr = 1\nweight_decay = 1e39", "weight_decay = 1e+39 is more than float32"),
    ("local_steps = 2", "local_steps = 100000001", "choose 100000000 or less"),
    ("local_steps = 2", "local_epochs = 100000001", "choose 100000000 or less"),
    (
        'dataset = "digits"',
        'dataset = "imagefolder"\nimage_size = 16385',
        "image_size = 16385 is too much to train with: choose 16384 or less",
    ),
]


@pytest.mark.parametrize(("before", "after", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_a_wrong_file_gets_one_sentence(before: str, after: str, says: str, tiny: Path) -> None:
    """With the file, the key and the remedy."""
    text = TINY.replace(before, after)
    assert text != TINY
    tiny.write_text(text)
    with pytest.raises(PlanError) as caught:
        read_plan(tiny)
    message = str(caught.value)
    assert says in message
    assert str(tiny) in message
    assert "\n" not in message


def test_a_byte_order_mark_and_ends_of_lines_change_nothing(tmp_path: Path) -> None:
    """The plan of a Windows editor makes the same trials and the same stored text."""
    plain, marked = tmp_path / "plain.toml", tmp_path / "marked.toml"
    plain.write_text(TINY)
    marked.write_text("\ufeff" + TINY, encoding="utf-8", newline="\r\n")
    assert read_plan(marked) == read_plan(plain)
    assert read_plan(plain, ["\ufeffrounds=3"]) != read_plan(plain)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (("# é\n" + TINY).encode("utf-16"), "it is UTF-16 from line 1 on"),
        (("# é\n" + TINY).encode("utf-16-le"), "line 1 has a zero byte"),
        (TINY.encode("utf-32"), "it is UTF-32 from line 1 on"),
        (b"# one\r\n# two\r\n# caf\xe9\r\n" + TINY.encode(), "line 3 has the byte 0xe9"),
        (b"\xef\xbb\xbf# one\n# caf\xe9\n", "line 2 has the byte 0xe9"),
    ],
    ids=["utf-16", "utf-16 without mark", "utf-32", "latin-1", "latin-1 after a mark"],
)
def test_another_encoding_is_named_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    """In one sentence with the remedy."""
    file = tmp_path / "plan.toml"
    file.write_bytes(content)
    with pytest.raises(PlanError) as caught:
        read_plan(file)
    message = str(caught.value)
    assert message.startswith(f"{file} cannot be read: ")
    assert says in message
    assert message.endswith(": save it as UTF-8")
    assert "\n" not in message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """One sentence, not a traceback."""
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        read_plan(tmp_path / "missing.toml")
    (tmp_path / "tiny.toml").write_text(TINY)
    with pytest.raises(PlanError, match="not key=value"):
        read_plan(tmp_path / "tiny.toml", ["rounds"])


@given(st.integers(1, 500), st.integers(0, 100))
def test_shares_of_whole_rounds_stay_within_them(rounds: int, percent: int) -> None:
    """floor(p T + 1/2) lies in 0..T, so that no share is ever refused."""
    from decimal import Decimal

    from trainers.sizes import share

    frozen = share(Decimal(percent) / 100, rounds)
    assert 0 <= frozen <= rounds
    assert abs(frozen - percent * rounds / 100) <= 0.5


def test_every_field_has_a_column_type() -> None:
    """The store makes its columns from these."""
    columns = config_columns()
    assert columns["alpha"] is float
    assert columns["rounds"] is int
    assert columns["normalizer"] is str
    assert columns["augment"] is bool


def test_pinning_changes_trials_of_its_data_set_alone(tiny: Path) -> None:
    """The content of the images becomes part of the identity; digits are always the same."""
    sweep, content = read_plan(tiny), {"fingerprint": "a" * 32}
    assert pinned(sweep, {"dataset": "imagefolder"}, content) == sweep
    mixed = [*sweep.trials, *read_plan(tiny, ["dataset=imagefolder"]).trials]
    mixed += read_plan(tiny, ["dataset=tiny-imagenet"]).trials
    match = {"dataset": "tiny-imagenet"}
    after = pinned(SweepSpec("s", "t", tuple(mixed)), match, content).trials
    assert [t.config.fingerprint for t in after] == [None] * 12 + ["a" * 32] * 6
    assert [t == u for t, u in zip(mixed, after, strict=True)] == [True] * 12 + [False] * 6
    assert len({t.trial_id for t in [*mixed, *after]}) == 24


def test_a_centralized_trial_is_one_for_all_partitions(tiny: Path) -> None:
    """The axis of the partition means nothing to it: duplicates fall together."""
    grid = "normalizer = 'bn'\ncentralized = [false, true]\nalpha = [0.1, 1.0, 10.0]\n"
    tiny.write_text(TINY.partition("[[grid]]")[0] + "[[grid]]\n" + grid)
    found = [(t.config.centralized, t.config.alpha) for t in read_plan(tiny).trials]
    assert found == [(False, 0.1), (False, 1.0), (False, 10.0), (True, None)]


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ("freeze_round = { step = 0 }", "freeze_round.step = 0 is not above 0"),
        ("freeze_round = { step = -4 }", "freeze_round.step = -4 is not above 0"),
        ('freeze_round = { step = "0%" }', 'freeze_round.step = "0%" is not above 0'),
        ("freeze_round = { step = 1e-9 }", "freeze_round.step = 1e-09 cannot be used"),
        ("freeze_round = { low = 0, high = 5000, step = 1 }", "raise freeze_round.step"),
        ('freeze_round = { step = "0.000001%" }', "raise freeze_round.step"),
        ("confirm_seeds = 3", "seed = 9223372036854775807 leaves no room"),
        (f"freeze_round = {{ step = {2**63} }}", "step = 9,223,372,036,854,775,808 is more than"),
        (f"rounds_per_seed = {2**63}", "rounds_per_seed = 9,223,372,036,854,775,808 is more than"),
    ],
)
def test_a_search_that_cannot_run_is_refused(search: str, says: str, tiny: Path) -> None:
    """A step that goes nowhere, too many T* to choose from, or no seed left to add."""
    protocol = TINY.partition("[[grid]]")[0].replace("rounds = 3", "rounds = 1_000_000_000_000")
    grid = 'normalizer = "fixbn"\nvalidation = 0.1\nseed = [0, 9_223_372_036_854_775_807]\n'
    tiny.write_text(f"{protocol}\n[[grid]]\n{grid}\n[search]\n{search}\n")
    with pytest.raises(PlanError) as refusal:
        read_plan(tiny)
    assert says in str(refusal.value)


def test_rounds_that_a_database_cannot_add_up_are_refused(tiny: Path) -> None:
    """A trial of 2^63 - 1 rounds would overflow the sums of `status`."""
    with pytest.raises(PlanError, match="rounds in all, more than 1,000,000,000,000,000: lower"):
        read_plan(tiny, ["rounds=9223372036854775807"])


def test_a_sweep_s_budget_is_read_and_changes_no_trial(tiny: Path) -> None:
    """Rounds, hours, or both."""
    ids = [trial.trial_id for trial in read_plan(tiny).trials]
    tiny.write_text(TINY + "[budget]\nrounds = 100\nhours = 1.5\n")
    sweep = read_plan(tiny)
    assert sweep.budget == Budget(rounds=100, hours=1.5)
    assert [trial.trial_id for trial in sweep.trials] == ids


@pytest.mark.parametrize(
    "limit",
    [
        *("rounds = 0", "rounds = 1.5", "hours = -1", "hours = inf", "hours = true", "days = 1"),
        *(f"rounds = {2**63}", "hours = 1e300"),
    ],
)
def test_a_budget_that_is_no_limit_is_refused(limit: str, tiny: Path) -> None:
    """One sentence, with the key."""
    tiny.write_text(TINY + f"[budget]\n{limit}\n")
    with pytest.raises(PlanError, match=rf"\[budget\] {limit.split(maxsplit=1)[0]}"):
        read_plan(tiny)


def test_a_trial_planned_twice_is_saved_as_often_as_the_more_careful_plan_says(tiny: Path) -> None:
    """snapshot_every is outside the identity; the smaller one holds, over none at all."""
    ids = {trial.trial_id for trial in read_plan(tiny).trials}
    tiny.write_text(
        TINY
        + '[[grid]]\nnormalizer = "bn"\nsnapshot_every = [5, 2]\n'
        + '[[grid]]\nnormalizer = "bn"\n'
    )
    sweep = read_plan(tiny)
    assert {trial.trial_id for trial in sweep.trials} == ids
    assert sweep.trials[0].config.snapshot_every == 2
