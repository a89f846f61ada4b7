"""Dead letters: what the topic holds, and the way back to where they came from."""
