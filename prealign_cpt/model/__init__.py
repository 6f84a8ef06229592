"""What is known about a base model: whether it can be trained here, and which tokens begin and end a text."""
