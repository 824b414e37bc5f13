"""What the records say: rows, claims, tables, comparisons, figures, a data frame.

Promises: pure functions of records (the same records, the same bytes); no torch. May import: `bench.store`,
`bench.stats` and below.
"""
