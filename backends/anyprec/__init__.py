"""One bit-plane store that holds every width of a model at once."""
