-- Mean, lowest and highest test accuracy over seeds in each evaluated round, for each normaliser
-- and freeze round.
SELECT m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum, r.normalizer,
       r.freeze_round, c.round, count(*) AS n, avg(c.test_accuracy) AS mean_test_accuracy,
       min(c.test_accuracy) AS lowest, max(c.test_accuracy) AS highest
FROM curves c JOIN results r ON r.trial_id = c.trial_id JOIN members m ON m.trial_id = r.trial_id
WHERE c.test_accuracy IS NOT NULL AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
GROUP BY m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum, r.normalizer,
         r.freeze_round, c.round
ORDER BY m.sweep, r.dataset, r.model, r.alpha NULLS LAST, r.local_steps NULLS LAST, r.momentum,
         r.normalizer, r.freeze_round NULLS LAST, c.round
