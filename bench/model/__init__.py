"""The thing that is measured: built from names, put into its mode, and counted.

Promises: what is timed, weighed and evaluated for one cell is the same artifact. May import: `bench.timing`,
`bench.training`, `bench.plan` and below, `heads`, `backbones`, torch.
"""
