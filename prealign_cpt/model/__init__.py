"""What is known about a base model: which tokens begin and end a text."""
