"""Formats: the bytes of one record -> series, time and feature values. One file a format."""
