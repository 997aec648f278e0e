-- The outcome of each search of the best freeze round: the T* that it proposes, how many it tried,
-- the rounds that it expected them to take, and why it ended.
SELECT s.name AS sweep, a.arm_id, a.freeze_round, a.ended,
       count(p.number) AS proposals,
       CAST(coalesce(sum(p.cost), 0) AS BIGINT) AS rounds,
       sum(CASE WHEN p.pruned_at IS NOT NULL THEN 1 ELSE 0 END) AS given_up, a.said
FROM arms a JOIN sweeps s ON s.id = a.sweep LEFT JOIN proposals p ON p.arm = a.id
WHERE CAST(:sweep AS TEXT) IS NULL OR s.name = :sweep
GROUP BY s.name, a.id, a.arm_id, a.freeze_round, a.ended, a.said
ORDER BY s.name, a.id
