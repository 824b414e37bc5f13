"""Tests of the room `bench.store`."""
