"""What is made sure of before anything that a user gives is used."""
