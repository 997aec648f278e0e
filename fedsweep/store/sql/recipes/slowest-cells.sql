-- Seconds of a round for each cell and device, over the rounds that its trials trained themselves,
-- the slowest first.
SELECT m.sweep, r.cell_id, r.dataset, r.model, r.normalizer, r.freeze_round, r.alpha,
       r.local_steps, r.momentum, r.device,
       CAST(sum(r.final_round - r.rounds_shared) AS BIGINT) AS rounds_trained,
       sum(r.seconds) / sum(r.final_round - r.rounds_shared) AS seconds_a_round
FROM results r JOIN members m ON m.trial_id = r.trial_id
WHERE r.final_round > r.rounds_shared AND (CAST(:sweep AS TEXT) IS NULL OR m.sweep = :sweep)
GROUP BY m.sweep, r.cell_id, r.dataset, r.model, r.normalizer, r.freeze_round, r.alpha,
         r.local_steps, r.momentum, r.device
ORDER BY seconds_a_round DESC NULLS LAST, m.sweep, r.cell_id, r.device
