"""What is measured, one file each; the contract is in `bench.plan.measure`.

Promises: one number, one version, the fields of the cell that it depends on. May import: `bench.model`, `bench.timing`,
`bench.training` and below.
"""
