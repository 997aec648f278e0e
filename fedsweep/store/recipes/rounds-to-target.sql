-- The first round at which a trial reaches 90 % of the best final test accuracy of its alpha, E and
-- momentum, for each normaliser and freeze round.
WITH finals AS (
    SELECT m.sweep, r.trial_id, r.dataset, r.model, r.alpha, r.local_steps, r.momentum,
           r.normalizer, r.freeze_round,
           0.9 * max(r.test_accuracy) OVER (
               PARTITION BY m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum
           ) AS target
    FROM results r JOIN members m ON m.trial_id = r.trial_id
    WHERE r.state = 'finished' AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
),
firsts AS (
    SELECT f.sweep, f.trial_id, f.dataset, f.model, f.alpha, f.local_steps, f.momentum,
           f.normalizer, f.freeze_round, f.target,
           min(CASE WHEN c.test_accuracy >= f.target THEN c.round END) AS first_round
    FROM finals f JOIN curves c ON c.trial_id = f.trial_id
    GROUP BY f.sweep, f.trial_id, f.dataset, f.model, f.alpha, f.local_steps, f.momentum,
             f.normalizer, f.freeze_round, f.target
)
SELECT sweep, dataset, model, alpha, local_steps, momentum, normalizer, freeze_round,
       min(target) AS target, count(*) AS n, count(first_round) AS n_reached,
       avg(CAST(first_round AS DOUBLE PRECISION)) AS mean_round,
       min(first_round) AS earliest, max(first_round) AS latest
FROM firsts
GROUP BY sweep, dataset, model, alpha, local_steps, momentum, normalizer, freeze_round
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, momentum, normalizer,
         freeze_round NULLS LAST
