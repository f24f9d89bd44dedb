"""What AsynDBT is compared with: other ways to choose a prompt, on the same rows and calls."""
