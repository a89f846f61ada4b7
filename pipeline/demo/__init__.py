"""`offkey demo`: real labelled series through a real broker, into the same worker that production uses."""
