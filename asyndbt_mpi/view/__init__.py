"""What a person sees: the progress bar and the tables."""
