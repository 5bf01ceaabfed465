"""What NVIDIA chips and their code are made of."""
