"""Tests of the room `bench.training`."""
