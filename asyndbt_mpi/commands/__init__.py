"""What each command of `asyndbt` does: a file is named like its command."""
