"""How accuracy is made: training by a recipe, the metrics, and pictures of predictions.

Promises: the same seed gives the same training on one device. May import: `bench.plan`, `bench.data` and below,
`heads`, torch.
"""
