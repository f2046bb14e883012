"""Real data: files that nobody vouches for are read safely, checked, and turned into the course's shards."""
