"""Tests of the room `bench.measures`."""
