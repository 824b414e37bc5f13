"""Where cells run, one file each; the contract is in ``contract.py``."""
