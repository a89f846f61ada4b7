"""Alerts -> what each kind of receiver takes, and what its answer means. No file here knows a network."""
