-- The freeze round T* of the highest mean test accuracy for each alpha, E and momentum, with its
-- margin over bn and gn; chosen on the test set.
WITH scoped AS (
    SELECT * FROM cells
    WHERE n > 0 AND (CAST(:sweep AS TEXT) IS NULL OR sweep = :sweep)
),
ranked AS (
    SELECT scoped.*,
           max(CASE WHEN normalizer = 'bn' THEN mean_test_accuracy END) OVER setting AS bn,
           max(CASE WHEN normalizer = 'gn' THEN mean_test_accuracy END) OVER setting AS gn,
           row_number() OVER (
               PARTITION BY sweep, dataset, model, alpha, local_steps, momentum,
                            CASE WHEN freeze_round IS NULL THEN 0 ELSE 1 END
               ORDER BY mean_test_accuracy DESC, freeze_round, cell_id
           ) AS place
    FROM scoped
    WINDOW setting AS (PARTITION BY sweep, dataset, model, alpha, local_steps, momentum)
)
SELECT sweep, dataset, model, alpha, local_steps, momentum, freeze_round,
       mean_test_accuracy AS mean, std_test_accuracy AS std, n,
       mean_test_accuracy - bn AS over_bn, mean_test_accuracy - gn AS over_gn
FROM ranked
WHERE freeze_round IS NOT NULL AND place = 1
ORDER BY sweep, dataset, model, alpha NULLS LAST, local_steps NULLS LAST, momentum
