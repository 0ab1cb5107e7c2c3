"""Explorers turn scores into a distribution over arms."""
