"""Tests of the data sets, and tiny data sets to test with (`fixtures`)."""
