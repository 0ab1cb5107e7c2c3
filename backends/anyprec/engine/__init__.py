"""Generates text from a store with numpy alone: one copy of the planes, and every request at its own width."""
