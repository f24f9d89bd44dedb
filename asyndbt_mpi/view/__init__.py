"""Output for people: the progress bar and the tables."""
