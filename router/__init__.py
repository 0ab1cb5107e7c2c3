"""Pointsman conducts: it parses, decides, reserves, relays, settles and remembers."""
