"""Tests of the room `bench.report`."""
