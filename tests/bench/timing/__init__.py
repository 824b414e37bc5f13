"""Tests of the room `bench.timing`."""
