"""What is known: records, and the folder that keeps them.

Promises: a record that was written is on the disk; a run that is cut off at any byte costs one line at most; no torch.
May import: `bench.plan` and below.
"""
