"""Tests of the room `bench.launchers`."""
