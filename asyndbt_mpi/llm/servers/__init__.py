"""Language models behind an OpenAI-like API."""
