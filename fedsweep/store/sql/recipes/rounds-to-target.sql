-- The first round at which the trials of a cell reach 90 % of the best final test accuracy of their
-- alpha, E and momentum.
WITH finals AS (
    SELECT m.sweep, r.trial_id, r.cell_id, r.dataset, r.model, r.alpha, r.local_steps, r.momentum,
           r.normalizer, r.freeze_round,
           0.9 * max(r.test_accuracy) OVER (
               PARTITION BY m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum
           ) AS target
    FROM results r JOIN members m ON m.trial_id = r.trial_id
    WHERE r.state = 'finished' AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
),
firsts AS (
    SELECT finals.*,
           (SELECT min(c.round) FROM curves c
            WHERE c.trial_id = finals.trial_id AND c.test_accuracy >= finals.target) AS first_round
    FROM finals
    ORDER BY trial_id  -- so that Postgres looks each up once, not for every use
)
SELECT sweep, dataset, model, alpha, local_steps, momentum, normalizer, freeze_round, cell_id,
       min(target) AS target, count(*) AS n, count(first_round) AS n_reached,
       avg(CAST(first_round AS DOUBLE PRECISION)) AS mean_round,
       min(first_round) AS earliest, max(first_round) AS latest
FROM firsts
GROUP BY sweep, dataset, model, alpha, local_steps, momentum, normalizer, freeze_round, cell_id
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, momentum, normalizer,
         freeze_round NULLS LAST, cell_id
