"""What executes a model, one file each; the contract is in ``contract.py``.

Promises: a model that was exported is a folder of files, and runs without the code that made it. A runtime is imported
where it is used, for most are extras. May import: `bench.plan` and below, torch, and the runtime's own packages.
"""
