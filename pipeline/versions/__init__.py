"""Model versions: what is known of each, which one serves, and which may go."""
