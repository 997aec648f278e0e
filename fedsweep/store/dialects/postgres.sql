-- The statements that every trial executes, on Postgres. sqlite.sql has the same names, and explains
-- the syntax of both files.
--
-- One statement writes several tables, so that a claim, a round or an end takes one round trip.
-- A parameter is cast to its column's type if an operator or a function stands next to it.

-- name: now
-- The server's time if the parameter is NULL. It is the time of the statement, because its
-- transaction may have waited. It is a stable function, so that a condition can use an index.
coalesce(
    CAST(:now AS double precision),
    CAST(extract(epoch FROM statement_timestamp()) AS double precision)
)

-- name: claim
WITH taken AS (
    UPDATE trials
    SET state = 'running', fence = fence + 1, lease_until = {now} + :lease, clock = :clock
    WHERE id = ({first})
    RETURNING
        id, trial_id, fence, config, numerics_id, data_fingerprint, final_round, trunk, fork_round
), noted AS (
    INSERT INTO attempts (trial, fence, worker, host, device, pid, started_at)
    SELECT
        id, fence, CAST(:worker AS text), CAST(:host AS text), CAST(:device AS text),
        CAST(:pid AS integer), CAST(:started_at AS double precision)
    FROM taken
)
SELECT
    due.expired, due.backed_off, id, trial_id, fence, config, numerics_id, data_fingerprint,
    final_round, trunk, fork_round
FROM ({due}) AS due LEFT JOIN taken ON true;

-- name: first_of_all
SELECT id FROM trials
WHERE {claimable}{wanted}
ORDER BY priority DESC, id
LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: first_of_sweep
SELECT id FROM trials
-- A range with one value, in an order that only the sweep's index has. Otherwise a planner may scan
-- the trials of all sweeps by priority, until it finds one of this sweep.
WHERE {claimable} AND sweep BETWEEN ({sweep}) AND ({sweep}){wanted}
ORDER BY sweep, priority DESC, id
LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: first_of_sweep_or_shared
WITH own AS (
    SELECT id, priority FROM trials
    WHERE {claimable} AND sweep BETWEEN ({sweep}) AND ({sweep}){wanted}
    ORDER BY sweep, priority DESC, id
    LIMIT 1 FOR UPDATE SKIP LOCKED
), shared AS (
    SELECT id, priority FROM trials
    WHERE {claimable}
      AND id IN (SELECT trial FROM sweep_members WHERE sweep = ({sweep}) AND shared = 1){wanted}
    -- An order that no index has, for the same reason: the planner reads only the shared trials.
    ORDER BY priority + 0 DESC, id + 0
    LIMIT 1 FOR UPDATE OF trials SKIP LOCKED
)
SELECT id FROM (SELECT id, priority FROM own UNION ALL SELECT id, priority FROM shared) AS best
ORDER BY priority DESC, id
LIMIT 1;

-- name: sweep
SELECT id FROM sweeps WHERE name = CAST(:sweep AS text);

-- name: any_shared
-- If a sweep has no shared trials, `first_of_sweep` finds all its trials.
SELECT trial FROM sweep_members WHERE sweep = ({sweep}) AND shared = 1 LIMIT 1;

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
WHERE id = CAST(:of_trial AS bigint);

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
id = CAST(:of_trial AS bigint) AND fence = CAST(:of_fence AS bigint) AND state = 'running'

-- name: finish
-- If the trial is not finished, its attempt does not end either.
WITH finished AS (
    UPDATE trials
    SET state = 'finished', lease_until = NULL, clock = NULL, failure = NULL, error = NULL,
        losses = 0, wish = NULL, held = NULL,
        device = (
            SELECT device FROM attempts
            WHERE trial = CAST(:of_trial AS bigint) AND fence = CAST(:of_fence AS bigint)
        ),
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
      AND (SELECT count(*) FROM rounds WHERE rounds.trial = trials.id) = trials.rounds
    RETURNING id
)
{end_attempt} AND trial IN (SELECT id FROM finished);

-- name: end_attempt
UPDATE attempts
SET ended_at = :ended_at, outcome = :outcome, failure = :failure, error = :error,
    traceback = :traceback
WHERE trial = CAST(:of_trial AS bigint) AND fence = CAST(:of_fence AS bigint)

-- name: get_on
WITH counted AS (
    {count_rounds}
)
UPDATE trials
SET losses = 0,
    final_round = CAST(:last AS bigint),
    seconds = coalesce(seconds, 0) + CAST(:more_seconds AS double precision)
WHERE id = CAST(:of_trial AS bigint);

-- name: count_rounds
UPDATE attempts
SET rounds_trained = rounds_trained + CAST(:n_trained AS bigint),
    rounds_new = rounds_new + CAST(:n_new AS bigint),
    rounds_lost = rounds_lost + CAST(:n_lost AS bigint),
    seconds_trained = seconds_trained + CAST(:s_trained AS double precision),
    seconds_lost = seconds_lost + CAST(:s_lost AS double precision),
    memory = coalesce(CAST(:at_most AS bigint), memory)
WHERE trial = CAST(:of_trial AS bigint) AND fence = CAST(:of_fence AS bigint);

-- name: busy
-- Another running trial that would train rounds after both starts, before both forks.
SELECT trials.id
FROM trials JOIN trials AS claimed ON claimed.id = CAST(:of_trial AS bigint)
WHERE trials.trunk IS NOT NULL AND trials.state = 'running'
  AND trials.trunk = CAST(:of_trunk AS text) AND trials.id <> CAST(:of_trial AS bigint)
  AND greatest(
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
  ) < least(trials.fork_round, claimed.fork_round)
LIMIT 1;

-- name: free_forks
UPDATE trials SET waits = 0
WHERE id IN (
    SELECT id FROM trials
    WHERE {sharing} AND trunk = CAST(:of_trunk AS text) AND waits = 1 AND fork_round <= CAST(:of_round AS bigint)
    -- Planning and holding lock rows in another order. Waiting for them could be a deadlock.
    FOR UPDATE SKIP LOCKED
);

-- name: pass_on
UPDATE trials SET waits = 0
WHERE id IN (
    SELECT id FROM trials
    WHERE {waiting} AND trunk = CAST(:of_trunk AS text)
    ORDER BY priority DESC, fork_round DESC
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
-- It is evaluated once, and not for each waiting trial.
AND NOT EXISTS (
    SELECT 1 FROM trials AS other
    WHERE other.trunk IS NOT NULL AND other.state IN ('queued', 'running')
      AND other.trunk = CAST(:of_trunk AS text) AND other.waits = 0
      AND other.fork_round > (
          SELECT coalesce(max(round), 0) FROM snapshots WHERE trunk = CAST(:of_trunk AS text)
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
        WHERE {sharing} AND trunk = CAST(:of_trunk AS text) AND waits = 0 AND fork_round > CAST(:of_round AS bigint)
    ) AS free,
    (
        SELECT min(fork_round) FROM trials
        WHERE {sharing} AND trunk = CAST(:of_trunk AS text) AND waits = 1 AND fork_round > CAST(:of_round AS bigint)
    ) AS waiting;

-- name: lattices
SELECT low, high, step FROM lattices WHERE trunk = CAST(:of_trunk AS text);

-- name: home
SELECT store.id, sweeps.artifacts
FROM trials JOIN sweeps ON sweeps.id = trials.sweep CROSS JOIN store
WHERE trials.id = CAST(:of_trial AS bigint);

-- name: add_round
INSERT INTO rounds ({columns}) VALUES ({values});
