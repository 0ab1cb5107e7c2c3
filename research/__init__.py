"""Training, packing and measuring the model family. Not in the wheel; needs torch."""
