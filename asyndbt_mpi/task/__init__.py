"""Data sets, prompt templates, vocabularies and the split over workers."""
