"""Tests of the room `bench.model`."""
