-- The normalizer of the highest mean test accuracy for each alpha, E and momentum, each at its best
-- cell, and its margin over the next.
WITH scoped AS (
    SELECT * FROM cells
    WHERE n > 0 AND (CAST(:sweep AS TEXT) IS NULL OR sweep = :sweep)
),
placed AS (
    SELECT scoped.*,
           row_number() OVER (
               PARTITION BY sweep, dataset, model, alpha, local_steps, momentum, normalizer
               ORDER BY mean_test_accuracy DESC, freeze_round, cell_id
           ) AS place
    FROM scoped
),
standings AS (
    SELECT placed.*,
           row_number() OVER setting AS standing,
           lead(normalizer) OVER setting AS runner_up,
           mean_test_accuracy - lead(mean_test_accuracy) OVER setting AS margin
    FROM placed
    WHERE place = 1
    WINDOW setting AS (
        PARTITION BY sweep, dataset, model, alpha, local_steps, momentum
        ORDER BY mean_test_accuracy DESC, normalizer
    )
)
SELECT sweep, dataset, model, alpha, local_steps, momentum, normalizer, freeze_round,
       mean_test_accuracy AS mean, std_test_accuracy AS std, n, runner_up, margin
FROM standings
WHERE standing = 1
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, momentum
