-- The statements that every trial executes, on SQLite. postgres.sql has the same names.
--
-- :name is a parameter. {name} is the query of that name, or a part that the caller supplies.
-- A query may have several statements. Each one is executed if the previous one matched a row.
-- 'running', 1 and the like are literals, because a planner uses a partial index only then.

-- name: now
:now

-- name: claim
-- SQLite has no INSERT within another statement: `note_claim` and `due` follow.
UPDATE trials
SET state = 'running', fence = fence + 1, lease_until = {now} + :lease, clock = :clock
WHERE id = ({first})
RETURNING
    id, trial_id, fence, config, numerics_id, data_fingerprint, final_round, trunk, fork_round;

-- name: first_of_all
SELECT id FROM trials
WHERE {claimable}{wanted}
ORDER BY priority DESC, id
LIMIT 1;

-- name: first_of_sweep
SELECT id FROM trials
-- A range with one value, in an order that only the sweep's index has. Otherwise a planner may scan
-- the trials of all sweeps by priority, until it finds one of this sweep.
WHERE {claimable} AND sweep BETWEEN ({sweep}) AND ({sweep}){wanted}
ORDER BY sweep, priority DESC, id
LIMIT 1;

-- name: first_of_sweep_or_shared
WITH own AS (
    SELECT id, priority FROM trials
    WHERE {claimable} AND sweep BETWEEN ({sweep}) AND ({sweep}){wanted}
    ORDER BY sweep, priority DESC, id
    LIMIT 1
), shared AS (
    SELECT id, priority FROM trials
    WHERE {claimable}
      AND id IN (SELECT trial FROM sweep_members WHERE sweep = ({sweep}) AND shared = 1){wanted}
    -- An order that no index has, for the same reason: the planner reads only the shared trials.
    ORDER BY priority + 0 DESC, id + 0
    LIMIT 1
)
SELECT id FROM (SELECT id, priority FROM own UNION ALL SELECT id, priority FROM shared) AS best
ORDER BY priority DESC, id
LIMIT 1;

-- name: sweep
SELECT id FROM sweeps WHERE name = :sweep;

-- name: any_shared
-- If a sweep has no shared trials, `first_of_sweep` finds all its trials.
SELECT trial FROM sweep_members WHERE sweep = ({sweep}) AND shared = 1 LIMIT 1;

-- name: note_claim
INSERT INTO attempts (trial, fence, worker, host, device, pid, started_at)
VALUES (:of_trial, :of_fence, :worker, :host, :device, :pid, :started_at);

-- name: due
-- Reads only small indexes. The backoffs on other clocks are two ranges of their index.
SELECT
    EXISTS (
        SELECT 1 FROM trials
        WHERE state = 'running'
          AND (lease_until < {now} OR lease_until > {now} + {ahead} OR clock <> :clock)
    ) AS expired,
    EXISTS (SELECT 1 FROM trials WHERE {backing_off} AND clock = :clock AND not_before <= {now})
    OR EXISTS (SELECT 1 FROM trials WHERE {backing_off} AND clock < :clock)
    OR EXISTS (SELECT 1 FROM trials WHERE {backing_off} AND clock > :clock) AS backed_off;

-- name: undo_claim
-- No other process has seen the fence.
UPDATE trials
SET state = 'queued', fence = fence - 1, lease_until = NULL, clock = NULL, waits = 1
WHERE id = :of_trial;

-- name: renew
UPDATE trials
SET lease_until = {now} + :lease, clock = :clock
WHERE {held_by_claim}
RETURNING final_round, held;

-- name: release
UPDATE trials
SET state = 'queued', lease_until = NULL, clock = NULL
WHERE {held_by_claim};

-- name: held_by_claim
id = :of_trial AND fence = :of_fence AND state = 'running'

-- name: finish
UPDATE trials
SET state = 'finished', lease_until = NULL, clock = NULL, failure = NULL, error = NULL,
    losses = 0, wish = NULL, held = NULL,
    device = (SELECT device FROM attempts WHERE trial = :of_trial AND fence = :of_fence),
    ({final}) = (
        SELECT {final} FROM rounds
        WHERE rounds.trial = trials.id AND rounds.round = trials.rounds
    ),
    frozen_at = CASE WHEN freeze_rule = 'auto' THEN (
        SELECT coalesce(max(rounds.round), 0) FROM rounds
        WHERE rounds.trial = trials.id AND rounds.phase = 'explore'
    ) END,
    (best_test_accuracy, best_round) = (
        SELECT rounds.test_accuracy, rounds.round FROM rounds
        WHERE rounds.trial = trials.id AND rounds.test_accuracy IS NOT NULL
        ORDER BY rounds.test_accuracy DESC, rounds.round
        LIMIT 1
    ),
    (bytes_up, bytes_down) = (
        SELECT CAST(sum(rounds.bytes_up) AS bigint), CAST(sum(rounds.bytes_down) AS bigint)
        FROM rounds WHERE rounds.trial = trials.id
    )
WHERE {held_by_claim}
  AND (SELECT count(*) FROM rounds WHERE rounds.trial = trials.id) = trials.rounds;
{end_attempt};

-- name: end_attempt
UPDATE attempts
SET ended_at = :ended_at, outcome = :outcome, failure = :failure, error = :error,
    traceback = :traceback
WHERE trial = :of_trial AND fence = :of_fence

-- name: get_on
UPDATE trials
SET losses = 0, final_round = :last, seconds = coalesce(seconds, 0) + :more_seconds
WHERE id = :of_trial;
{count_rounds};

-- name: count_rounds
UPDATE attempts
SET rounds_trained = rounds_trained + :n_trained,
    rounds_new = rounds_new + :n_new,
    rounds_lost = rounds_lost + :n_lost,
    seconds_trained = seconds_trained + :s_trained,
    seconds_lost = seconds_lost + :s_lost,
    memory = coalesce(:at_most, memory)
WHERE trial = :of_trial AND fence = :of_fence;

-- name: busy
-- Another running trial that would train rounds after both starts, before both forks.
SELECT trials.id
FROM trials JOIN trials AS claimed ON claimed.id = :of_trial
WHERE trials.trunk IS NOT NULL AND trials.state = 'running'
  AND trials.trunk = :of_trunk AND trials.id <> :of_trial
  AND max(
      coalesce(trials.final_round, 0),
      coalesce(claimed.final_round, 0),
      coalesce((
          SELECT max(snapshots.round) FROM snapshots
          WHERE snapshots.trunk = trials.trunk AND snapshots.round <= trials.fork_round
      ), 0),
      coalesce((
          SELECT max(snapshots.round) FROM snapshots
          WHERE snapshots.trunk = claimed.trunk AND snapshots.round <= claimed.fork_round
      ), 0)
  ) < min(trials.fork_round, claimed.fork_round)
LIMIT 1;

-- name: free_forks
UPDATE trials SET waits = 0
WHERE id IN (
    SELECT id FROM trials
    WHERE {sharing} AND trunk = :of_trunk AND waits = 1 AND fork_round <= :of_round
);

-- name: pass_on
UPDATE trials SET waits = 0
WHERE id IN (
    SELECT id FROM trials
    WHERE {waiting} AND trunk = :of_trunk
    ORDER BY priority DESC, fork_round DESC
    LIMIT 1
)
-- It is evaluated once, and not for each waiting trial.
AND NOT EXISTS (
    SELECT 1 FROM trials AS other
    WHERE other.trunk IS NOT NULL AND other.state IN ('queued', 'running')
      AND other.trunk = :of_trunk AND other.waits = 0
      AND other.fork_round > (
          SELECT coalesce(max(round), 0) FROM snapshots WHERE trunk = :of_trunk
      )
      AND coalesce(other.final_round, 0) < other.fork_round
      AND (other.state = 'running' OR other.held IS NULL AND other.not_before IS NULL)
);

-- name: any_waits
SELECT 1 FROM trials WHERE {waiting} LIMIT 1;

-- name: next_fork
SELECT
    (
        SELECT min(fork_round) FROM trials
        WHERE {sharing} AND trunk = :of_trunk AND waits = 0 AND fork_round > :of_round
    ) AS free,
    (
        SELECT min(fork_round) FROM trials
        WHERE {sharing} AND trunk = :of_trunk AND waits = 1 AND fork_round > :of_round
    ) AS waiting;

-- name: lattices
SELECT low, high, step FROM lattices WHERE trunk = :of_trunk;

-- name: home
SELECT store.id, sweeps.artifacts
FROM trials JOIN sweeps ON sweeps.id = trials.sweep CROSS JOIN store
WHERE trials.id = :of_trial;

-- name: add_round
INSERT INTO rounds ({columns}) VALUES ({values});
