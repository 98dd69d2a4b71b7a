"""What quantizing one layer costs, and which layers to exclude."""
