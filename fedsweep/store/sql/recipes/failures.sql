-- Failed trials by kind, normalizer and setting, the most first, with the rounds that they reached
-- and one of them to look at (fedsweep trial show).
SELECT m.sweep, r.failure, r.dataset, r.model, r.normalizer, r.freeze_round, r.alpha,
       r.local_steps, r.momentum, r.lr, count(*) AS n, min(coalesce(r.final_round, 0)) AS first_round,
       max(coalesce(r.final_round, 0)) AS last_round, min(r.trial_id) AS example
FROM results r JOIN members m ON m.trial_id = r.trial_id
WHERE r.state = 'failed' AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
GROUP BY m.sweep, r.failure, r.dataset, r.model, r.normalizer, r.freeze_round, r.alpha,
         r.local_steps, r.momentum, r.lr
ORDER BY n DESC, m.sweep, r.failure, example
