"""Figures, each printed as one line of JSON; none is asserted. Results are kept in `results/`."""
