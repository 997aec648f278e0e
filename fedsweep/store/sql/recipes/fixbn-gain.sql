-- The gain of fixbn over bn in test accuracy at each freeze round, paired by seed.
WITH paired AS (
    SELECT m.sweep, r.dataset, r.model, r.alpha, r.local_steps, r.momentum,
           r.normalizer, r.freeze_round, r.test_accuracy AS fixbn,
           avg(CASE WHEN r.normalizer = 'bn' THEN r.test_accuracy END) OVER (
               PARTITION BY m.sweep, r.dataset, r.model, r.partition, r.alpha, r.clients,
                            r.participation, r.rounds, r.local_steps, r.local_epochs,
                            r.batch_size, r.lr, r.momentum, r.seed
           ) AS bn
    FROM results r JOIN members m ON m.trial_id = r.trial_id
    WHERE r.state = 'finished' AND r.normalizer IN ('bn', 'fixbn')
          AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
)
SELECT sweep, dataset, model, alpha, local_steps, momentum, freeze_round, count(*) AS n,
       avg(fixbn) AS fixbn, avg(bn) AS bn, avg(fixbn - bn) AS gain,
       min(fixbn - bn) AS least, max(fixbn - bn) AS most,
       sum(CASE WHEN fixbn > bn THEN 1 ELSE 0 END) AS fixbn_wins
FROM paired
WHERE normalizer = 'fixbn' AND bn IS NOT NULL
GROUP BY sweep, dataset, model, alpha, local_steps, momentum, freeze_round
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, momentum,
         freeze_round NULLS LAST
