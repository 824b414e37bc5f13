"""What is asked: cells, the matrices and recipes that they come from, and what their names stand for.

Promises: nothing is measured, nothing but the cache is written, and torch is never imported, so that a plan is made in
a fraction of a second. May import: `bench.data` (contract and shared parts), `bench.catalogue`, `bench.errors`.
"""
