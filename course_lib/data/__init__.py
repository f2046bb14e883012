"""Rendered people: who they are, what they wear, where they stand, and the shards they are stored in."""
