"""Data sets, one file each; the contract is in ``contract.py``.

Promises: images and labels at any size, read without torch; a folder that is not in its layout is said in a sentence.
May import: `bench.errors`.
"""
