"""A family of small models with graded skills, trained by this project."""
