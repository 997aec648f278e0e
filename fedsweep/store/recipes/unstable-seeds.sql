-- Cells by the spread of their test accuracy over seeds, the largest first; seeds that diverged are
-- counted beside it.
WITH spreads AS (
    SELECT m.sweep, r.cell_id, min(r.test_accuracy) AS lowest, max(r.test_accuracy) AS highest
    FROM results r JOIN members m ON m.trial_id = r.trial_id
    WHERE r.state = 'finished' AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
    GROUP BY m.sweep, r.cell_id
)
SELECT s.sweep, c.cell_id, c.dataset, c.model, c.normalizer, c.freeze_round, c.alpha,
       c.local_steps, c.momentum, c.n, c.n_diverged, s.highest - s.lowest AS spread,
       s.lowest, s.highest, c.std_test_accuracy
FROM spreads s JOIN cells c ON c.sweep = s.sweep AND c.cell_id = s.cell_id
WHERE c.n > 1
ORDER BY spread DESC, c.n_diverged DESC, s.sweep, c.cell_id
