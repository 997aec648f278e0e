-- The gain of momentum that is kept across rounds over reset momentum, paired by seed: local (each
-- client's own buffer) and global (the server's average).
WITH pairs AS (
    SELECT m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.normalizer, r.freeze_round,
           avg(CASE WHEN r.momentum = 'reset' THEN r.test_accuracy END) AS reset,
           avg(CASE WHEN r.momentum = 'local' THEN r.test_accuracy END) AS local,
           avg(CASE WHEN r.momentum = 'global' THEN r.test_accuracy END) AS global
    FROM results r JOIN members m ON m.trial_id = r.trial_id
    WHERE r.state = 'finished' AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
    GROUP BY m.sweep, r.dataset, r.model, r.partition, r.alpha, r.clients, r.participation,
             r.rounds, r.local_steps, r.local_epochs, r.batch_size, r.lr, r.normalizer,
             r.freeze_round, r.seed
)
SELECT sweep, dataset, model, alpha, local_steps, normalizer, freeze_round, avg(reset) AS reset,
       count(local - reset) AS n_local, avg(local - reset) AS local_gain,
       count(global - reset) AS n_global, avg(global - reset) AS global_gain
FROM pairs
WHERE reset IS NOT NULL AND (local IS NOT NULL OR global IS NOT NULL)
GROUP BY sweep, dataset, model, alpha, local_steps, normalizer, freeze_round
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, normalizer,
         freeze_round NULLS LAST
