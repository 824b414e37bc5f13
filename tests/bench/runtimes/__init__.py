"""Tests of the room `bench.runtimes`."""
