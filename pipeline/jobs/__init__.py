"""Offline work on files and streams: each command is a file, what several need stands beside them."""
