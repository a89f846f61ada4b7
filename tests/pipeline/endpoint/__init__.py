"""Tests of the port of metrics and probes."""
