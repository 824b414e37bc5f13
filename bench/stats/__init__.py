"""What may be said of samples: medians with their intervals, ratios in common rounds, noise floors, ranks, bootstraps.

Promises: pure functions of numbers; no torch, no files, nothing of the project but itself. May import: the standard
library and numpy.
"""
