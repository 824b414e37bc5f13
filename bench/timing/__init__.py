"""How a time is taken: clocks of devices, interleaved rounds, and who else used the machine meanwhile.

Promises: no round is kept without the company that it was taken in. May import: `bench.plan`, `bench.stats` and below,
torch.
"""
