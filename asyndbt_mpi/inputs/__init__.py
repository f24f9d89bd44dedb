"""Checks on user input, made before it is used."""
