-- Mean, lowest and highest test accuracy over the seeds of each cell in each evaluated round.
WITH by_cell AS (
    SELECT m.sweep, r.cell_id, c.round, min(r.trial_id) AS one, count(*) AS n,
           avg(c.test_accuracy) AS mean,
           min(c.test_accuracy) AS lowest, max(c.test_accuracy) AS highest
    FROM curves c JOIN results r ON r.trial_id = c.trial_id
                  JOIN members m ON m.trial_id = r.trial_id
    WHERE c.test_accuracy IS NOT NULL AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
    GROUP BY m.sweep, r.cell_id, c.round
)
SELECT b.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum, r.normalizer,
       r.freeze_round, b.cell_id, b.round, b.n, b.mean, b.lowest, b.highest
FROM by_cell b JOIN results r ON r.trial_id = b.one
ORDER BY b.sweep, r.dataset, r.model, r.alpha NULLS LAST, r.local_steps NULLS LAST, r.momentum,
         r.normalizer, r.freeze_round NULLS LAST, b.cell_id, b.round
