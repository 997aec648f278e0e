-- Cells by the spread of their test accuracy over seeds, the largest first; seeds that diverged are
-- counted separately.
SELECT m.sweep, r.cell_id, r.dataset, r.model, r.normalizer, r.freeze_round, r.alpha,
       r.local_steps, r.momentum, count(r.test_accuracy) AS n,
       sum(CASE WHEN r.failure = 'diverged' THEN 1 ELSE 0 END) AS n_diverged,
       max(r.test_accuracy) - min(r.test_accuracy) AS spread,
       min(r.test_accuracy) AS lowest, max(r.test_accuracy) AS highest
FROM results r JOIN members m ON m.trial_id = r.trial_id
WHERE CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep
GROUP BY m.sweep, r.cell_id, r.dataset, r.model, r.normalizer, r.freeze_round, r.alpha,
         r.local_steps, r.momentum
HAVING count(r.test_accuracy) > 1
ORDER BY spread DESC, n_diverged DESC, m.sweep, r.cell_id
