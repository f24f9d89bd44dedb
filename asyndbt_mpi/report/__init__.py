"""Pages about runs: one HTML file each, which needs nothing outside itself."""
