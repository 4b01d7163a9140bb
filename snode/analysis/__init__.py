"""What a trained field does."""
