"""Tests of the room `bench.plan`."""
