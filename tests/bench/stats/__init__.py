"""Tests of the room `bench.stats`."""
