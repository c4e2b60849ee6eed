"""What is known about PyTorch builds, their wheels, and the hardware that runs them."""
