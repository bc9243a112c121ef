"""What the endpoints ask for."""
