"""The outside world: each module implements protocols of `pipeline.protocols` on one system."""
