-- The rounds and hours that each sweep trained, that shared trunks saved, and that were lost.
SELECT sweep, rounds_trained, rounds_shared, rounds_lost,
       CAST(rounds_shared AS DOUBLE PRECISION)
           / nullif(rounds_trained - rounds_lost + rounds_shared, 0) AS share_saved,
       CAST(rounds_lost AS DOUBLE PRECISION) / nullif(rounds_trained, 0) AS share_lost,
       seconds_trained / 3600.0 AS hours_trained, seconds_saved / 3600.0 AS hours_saved,
       seconds_lost / 3600.0 AS hours_lost
FROM ledger
WHERE CAST(:sweep AS TEXT) IS NULL OR sweep = :sweep
ORDER BY sweep
