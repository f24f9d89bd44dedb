"""Language models: label log-probabilities of prompts, and what they cost."""
