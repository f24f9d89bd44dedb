"""What each command of `asyndbt` does; each file is named after its command."""
