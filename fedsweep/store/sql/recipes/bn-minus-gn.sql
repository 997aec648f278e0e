-- The gain of bn over gn in test accuracy, paired by seed: the mean and the extremes of the
-- differences, and how many seeds bn wins.
WITH pairs AS (
    SELECT m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum, r.seed,
           avg(CASE WHEN r.normalizer = 'bn' THEN r.test_accuracy END) AS bn,
           avg(CASE WHEN r.normalizer = 'gn' THEN r.test_accuracy END) AS gn
    FROM results r JOIN members m ON m.trial_id = r.trial_id
    WHERE r.state = 'finished' AND r.normalizer IN ('bn', 'gn')
          AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
    GROUP BY m.sweep, r.dataset, r.model, r.partition, r.alpha, r.clients, r.participation,
             r.rounds, r.local_steps, r.local_epochs, r.batch_size, r.lr, r.momentum, r.seed
)
SELECT sweep, dataset, model, alpha, local_steps, momentum, count(*) AS n,
       avg(bn) AS bn, avg(gn) AS gn, avg(bn - gn) AS bn_minus_gn,
       min(bn - gn) AS least, max(bn - gn) AS most,
       sum(CASE WHEN bn > gn THEN 1 ELSE 0 END) AS bn_wins
FROM pairs
WHERE bn IS NOT NULL AND gn IS NOT NULL
GROUP BY sweep, dataset, model, alpha, local_steps, momentum
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, momentum
