"""Hand work to later, one engine a file, and the loop that does it. Knows messages, never what they ask for."""
