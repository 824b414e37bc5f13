"""Where cells run, one file each; the contract is in ``contract.py``.

Promises: a process a measurement, and an event for whatever becomes of it. The launching side never imports torch;
`bench.launchers.worker` is the other side, imported in the process that measures. May import: `bench.plan`,
`bench.stats` and below.
"""
